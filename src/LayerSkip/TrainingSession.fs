namespace LayerSkip

open System
open System.IO

/// Text, .jsonl and token files to learn from.
type TrainingData = {
    Train: string list
    /// None: a share of the training texts, which are then not trained on.
    Validation: string list
    ValidationShare: float
    /// Whether the tokenizer's BOS and EOS go around each text.
    Bos: bool
    Eos: bool
}

/// A run in its folder.
[<NoEquality; NoComparison>]
type TrainingSession = {
    Output: string
    Model: Checkpoint
    Trainee: Trainee
    Plan: TrainingPlan
    Data: Dataset
    /// What of the data is learned; None where texts are packed, which loses nothing.
    Coverage: Coverage option
    /// None where nothing validates.
    Validation: Dataset option
} with

    interface IDisposable with
        member this.Dispose() =
            (this.Trainee :> IDisposable).Dispose()
            (this.Data.Tokens :> IDisposable).Dispose()

            for validation in Option.toList this.Validation do
                (validation.Tokens :> IDisposable).Dispose()

            for tensor in Rope.tensorsOf this.Plan.Rope do
                tensor.Dispose()

[<RequireQualifiedAccess>]
module TrainingSession =
    let private trainFile (output: string) = Path.Combine(output, "train.tokens")
    let private validFile (output: string) = Path.Combine(output, "valid.tokens")

    // Each checkpoint copies its tokenizer from here: the one that a run went on from is removed some time.
    let private tokenizerFolder (output: string) = Path.Combine(output, "tokenizer")

    /// Prompts of a probe: the first ids of some validation texts; the new tokens of each.
    let private prompts, promptTokens = 8, 64
    let private promptLength (config: LlamaConfig) = config.Context / 2 |> min 8 |> max 1

    /// A file's texts as entries; those of a file of ids in pieces, where it does not part them.
    let private entriesOf (vocabulary: int) (encode: Lesson -> int[]) (path: string) : seq<int[]> =
        if TokenFile.isTokens path then
            seq {
                use tokens = TokenFile.openRead vocabulary path |> Check.getOrRaise
                let piece = 1L <<< 20

                for number in 0 .. tokens.Starts.Length - 1 do
                    let last =
                        if number + 1 < tokens.Starts.Length then
                            tokens.Starts[number + 1]
                        else
                            tokens.Count

                    for start in tokens.Starts[number] .. piece .. last - 1L do
                        tokens.Read(start, int (min piece (last - start)))
            }
        else
            Texts.read path |> Seq.map encode

    let private encoder
        (model: Checkpoint)
        (options: TrainingOptions)
        (data: TrainingData)
        : Lesson -> int[] =
        match model.Tokenizer with
        | None -> fun _ -> raise (LayerSkipException [ LayerSkipError.NoTokenizer model.Path ])
        | Some tokenizer ->
            let bos = if data.Bos then Tokenizer.bos tokenizer else None

            let eos = if data.Eos then Tokenizer.eos tokenizer else None

            // Where one token is both, one of it parts two packed texts.
            let eos =
                if options.Layout = Layout.Packed && eos = bos then
                    None
                else
                    eos
            Texts.entries tokenizer { Bos = bos; Eos = eos }

    let private write (vocabulary: int) encode isWanted sources target =
        match sources |> List.collect Texts.check with
        | [] ->
            try
                sources
                |> Seq.collect (entriesOf vocabulary encode)
                |> Seq.indexed
                |> Seq.filter (fst >> isWanted)
                |> Seq.map snd
                |> TokenFile.write target
                |> Result.bind (fun (struct (count, _)) ->
                    let empty =
                        LayerSkipError.BadFile(
                            String.concat ", " sources,
                            $"has too few texts to part some off for validation (\"{Texts.separator}\" stands between texts, a line of .jsonl is one); give more texts, files for --validation, or --valid-share 0"
                        )

                    Check.all (Check.that (count > 0L) empty) ())
            with
            | :? LayerSkipException as e -> Error e.Errors
            | :? Text.DecoderFallbackException ->
                Error [
                    LayerSkipError.BadFile(String.concat ", " sources, "is not UTF-8 text; convert it first")
                ]
        | faults -> Error faults

    /// Encodes the data into the run's folder.
    let private encode
        (output: string)
        options
        (model: Checkpoint)
        (data: TrainingData)
        : Result<unit, LayerSkipError list> =
        let write = write model.Config.Vocabulary (encoder model options data)
        let isHeldOut = Dataset.isHeldOut options.Seed data.ValidationShare

        match data.Validation with
        | [] when data.ValidationShare > 0.0 ->
            write (isHeldOut >> not) data.Train (trainFile output)
            |> Result.bind (fun () -> write isHeldOut data.Train (validFile output))
        | [] -> write (fun _ -> true) data.Train (trainFile output)
        | files ->
            Check.both
                (write (fun _ -> true) data.Train (trainFile output))
                (write (fun _ -> true) files (validFile output))
            |> Result.map ignore

    let private openData (output: string) (config: LlamaConfig) (options: TrainingOptions) =
        let dataset seed path =
            TokenFile.openRead config.Vocabulary path
            |> Result.bind (Dataset.create options.Layout options.SequenceLength seed)

        let validation =
            if File.Exists(validFile output) then
                dataset None (validFile output) |> Result.map Some
            else
                Ok None

        Check.both (dataset (Some options.Seed) (trainFile output)) validation

    let private assemble output (options: TrainingOptions) ranks (model: Checkpoint) (trainee: Trainee) =
        Check.both
            (openData output model.Config options)
            (Recipe.tryBuild model.Config.Layers options.Steps options.Seed options.Recipe)
        |> Result.map (fun ((data, validation), parts) -> {
            Output = output
            Model = model
            Trainee = trainee
            Plan = Training.plan options parts ranks trainee.Weights (Dataset.reader data)
            Data = data
            Coverage = Dataset.coverage data
            Validation = validation
        })

    let private dataFaults (data: TrainingData) = [
        if data.Train.IsEmpty then
            LayerSkipError.OutOfRange("data", "missing", "one or more text, .jsonl or token files")

        if not (data.ValidationShare >= 0.0 && data.ValidationShare < 1.0) then
            LayerSkipError.OutOfRange("valid-share", string data.ValidationShare, "0 or more, and below 1")
    ]

    let private holdsModel (folder: string) =
        Directory.Exists folder
        && [
            "config.json"
            "tokenizer.json"
            "tokenizer.model"
            "*.safetensors"
            "*.gguf"
           ]
           |> List.exists (fun pattern -> Directory.GetFiles(folder, pattern).Length > 0)

    let private outputFaults (output: string) = [
        if File.Exists output then
            LayerSkipError.BadFile(output, "is a file; name a folder for the run")
        elif not (TrainingCheckpoint.all output).IsEmpty then
            LayerSkipError.BadFile(output, "holds a run already; go on with --resume, or name another folder")
        elif holdsModel output then
            LayerSkipError.BadFile(
                output,
                "holds a model or a tokenizer already, which the run would write over; name another folder"
            )
    ]

    /// What is wrong with a run before any work is done.
    let check
        (output: string)
        (options: TrainingOptions)
        (config: LlamaConfig)
        (data: TrainingData)
        : LayerSkipError list =
        TrainingOptions.faults config options
        @ dataFaults data
        @ outputFaults output
        @ List.collect Texts.check (data.Train @ data.Validation)

    /// Data of which a run could learn nothing: prompts that fill their samples.
    let private silentFaults (session: TrainingSession) =
        Check.that
            (session.Coverage |> Option.forall (fun coverage -> coverage.Learned > 0L))
            (LayerSkipError.BadFile(
                session.Data.Tokens.Path,
                $"has nothing to learn within {session.Plan.Options.SequenceLength} ids of a text: prompts take all of it; give a longer --sequence-length"
            ))

    /// Starts a run in a new folder. The model's weights are float32 (float64 where the run computes in it); they are the
    /// run's from now on, change in place, and go when it is disposed. Only the first rank writes; the others wait for it.
    let start
        (output: string)
        (options: TrainingOptions)
        (ranks: Ranks)
        (model: Checkpoint)
        (data: TrainingData)
        : Result<TrainingSession, LayerSkipError list> =
        match check output options model.Config data with
        | [] ->
            let prepared =
                if ranks.Rank = 0 then
                    try
                        HuggingFaceExport.writeTokenizer (tokenizerFolder output) model
                        encode output options model data
                    with e when (MappedFile.fault e).IsSome ->
                        Error [ FileWriter.fault output e ]
                else
                    Ok()

            let failed = (ranks.Sum [| (if Result.isError prepared then 1.0 else 0.0) |])[0] > 0.0

            match prepared with
            | Ok() when failed ->
                Error [ LayerSkipError.BadFile(output, "could not be prepared by the first rank") ]
            | prepared ->
                prepared
                |> Result.bind (fun () ->
                    let model = { model with Path = tokenizerFolder output }
                    assemble output options ranks model (Training.start model.Weights))
                |> Result.bind (fun session ->
                    match silentFaults session with
                    | [] -> Ok session
                    | faults ->
                        (session :> IDisposable).Dispose()
                        Error faults)
        | faults -> Error faults

    /// Goes on from a run's latest checkpoint.
    let resume
        (output: string)
        (ranks: Ranks)
        (device: Device)
        : Result<TrainingSession, LayerSkipError list> =
        match TrainingCheckpoint.all output with
        | [] when TrainingCheckpoint.all(Path.GetDirectoryName(Path.GetFullPath output) |> string).IsEmpty ->
            Error [
                LayerSkipError.NotFound(
                    Path.Combine(output, "checkpoint-*"),
                    "name the folder of a run that saved a checkpoint"
                )
            ]
        | [] ->
            Error [
                LayerSkipError.BadFile(
                    output,
                    "is one checkpoint; name the run's folder, in which it lies: the latest there is taken"
                )
            ]
        | (_, folder) :: earlier ->
            TrainingCheckpoint.load folder device
            |> Result.mapError (fun faults ->
                match earlier with
                | [] -> faults
                | (_, next) :: _ -> [
                    LayerSkipError.BadFile(
                        folder,
                        $"cannot be gone on from ({LayerSkipError.summary faults}); remove it, and --resume takes {Path.GetFileName next}"
                    )
                  ])
            |> Result.bind (fun (struct (state, model, trainee)) ->
                // Somebody may have removed the run's own copy.
                if ranks.Rank = 0 && not (Directory.Exists(tokenizerFolder output)) then
                    HuggingFaceExport.writeTokenizer (tokenizerFolder output) model

                if state.Ranks <> ranks.Count then
                    Error [
                        LayerSkipError.OutOfRange(
                            "the number of ranks",
                            string ranks.Count,
                            $"{state.Ranks}, as the run began"
                        )
                    ]
                else
                    assemble output state.Options ranks { model with Path = tokenizerFolder output } trainee)

    /// What to say of a run whose model will have no tokenizer, though the one that it began with has.
    let tokenizerRemark (session: TrainingSession) : string option =
        HuggingFaceExport.tokenizerRemark session.Model.Path session.Model

    let private promptsOf (length: int) (validation: Dataset) : int[][] =
        let starts = validation.Tokens.Starts

        [|
            for start in Array.truncate prompts starts do
                let ids =
                    validation.Tokens.Read(start, int (min (int64 length) (validation.Tokens.Count - start)))
                ids |> Array.map (fun entry -> let struct (id, _) = TokenFile.decode entry in id)
        |]

    /// Makes the steps that are left; the finished model is in the run's folder before the last event.
    let run (isStopped: unit -> bool) (session: TrainingSession) : seq<TrainingEvent> =
        let options, ranks = session.Plan.Options, session.Plan.Ranks
        let promptLength = promptLength session.Model.Config

        // A full disk ends the run with a line that says so; it is thrown, as nothing can be told through the log.
        let writing (write: unit -> 'T) : 'T =
            try
                write ()
            with e when (MappedFile.fault e).IsSome ->
                raise (LayerSkipException [ FileWriter.fault session.Output e ])

        let state (trainee: Trainee) = { Options = options; Step = trainee.Step; Ranks = ranks.Count }

        let validation =
            session.Validation
            |> Option.map (fun dataset ->
                let read = Dataset.reader dataset
                let count =
                    min options.ValidationBatches (max 1 (Dataset.samples dataset / options.BatchSize))

                [
                    for batch in 0 .. count - 1 do
                        let first = batch * options.BatchSize
                        read (int64 first) (min options.BatchSize (Dataset.samples dataset - first))
                ])
            |> Option.defaultValue []

        let watch = {
            Validation = validation
            Prompts = session.Validation |> Option.map (promptsOf promptLength) |> Option.defaultValue [||]
            NewTokens = min promptTokens (session.Model.Config.Context - promptLength)
            Save = fun trainee -> TrainingCheckpoint.save session.Output (state trainee) session.Model trainee
            IsStopped = isStopped
        }

        seq {
            use log =
                if ranks.Rank = 0 then
                    writing (fun () -> TrainingLog.Open(session.Output, session.Trainee.Step))
                else
                    null

            for event in TrainingRun.run session.Plan watch session.Trainee do
                if not (isNull log) then
                    writing (fun () -> log.Write event)

                match event with
                | TrainingEvent.Ended(step, TrainingEnd.Finished) when ranks.Rank = 0 ->
                    match TrainingCheckpoint.finish session.Output session.Model session.Trainee.Weights with
                    | Ok() -> event
                    | Error faults -> TrainingEvent.Ended(step, TrainingEnd.Unwritable faults)
                | event -> event
        }
