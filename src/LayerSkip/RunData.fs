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

/// The data of a run in its folder: what it learns, and what it validates on.
[<RequireQualifiedAccess>]
module internal RunData =
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
        match Checkpoint.tokenizer model with
        | Error faults -> fun _ -> raise (LayerSkipException faults)
        | Ok tokenizer ->
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
    let encode
        (output: string)
        options
        (model: Checkpoint)
        (data: TrainingData)
        : Result<unit, LayerSkipError list> =
        let write = write model.Config.Vocabulary (encoder model options data)
        let isHeldOut = Dataset.isHeldOut options.Seed data.ValidationShare

        match data.Validation with
        | [] when data.ValidationShare > 0.0 ->
            write (isHeldOut >> not) data.Train (RunFolder.trainFile output)
            |> Result.bind (fun () -> write isHeldOut data.Train (RunFolder.validFile output))
        | [] ->
            write (fun _ -> true) data.Train (RunFolder.trainFile output)
            // An earlier run's is none of this one's.
            |> Result.map (fun () -> File.Delete(RunFolder.validFile output))
        | files ->
            Check.both
                (write (fun _ -> true) data.Train (RunFolder.trainFile output))
                (write (fun _ -> true) files (RunFolder.validFile output))
            |> Result.map ignore

    /// What is learned, and what validates, of a run's folder.
    let openData (output: string) (config: LlamaConfig) (options: TrainingOptions) =
        let dataset seed path =
            TokenFile.openRead config.Vocabulary path
            |> Result.bind (Dataset.create options.Layout options.SequenceLength seed)

        let validation =
            if File.Exists(RunFolder.validFile output) then
                dataset None (RunFolder.validFile output) |> Result.map Some
            else
                Ok None

        Check.both (dataset (Some options.Seed) (RunFolder.trainFile output)) validation

    /// What is wrong with the data before they are read.
    let faults (data: TrainingData) : LayerSkipError list = [
        if data.Train.IsEmpty then
            LayerSkipError.OutOfRange("data", "missing", "one or more text, .jsonl or token files")

        if not (data.ValidationShare >= 0.0 && data.ValidationShare < 1.0) then
            LayerSkipError.OutOfRange("valid-share", string data.ValidationShare, "0 or more, and below 1")

        yield! List.collect Texts.check (data.Train @ data.Validation)
    ]
