namespace LayerSkip

open System
open System.IO
open System.Text
open System.Text.Json
open TorchSharp

/// What lines of a log have in common.
[<RequireQualifiedAccess>]
module internal LogJson =
    /// What JSON has no number for is null.
    let number (json: Utf8JsonWriter) (name: string) (value: float) : unit =
        if Double.IsFinite value then
            json.WriteNumber(name, value)
        else
            json.WriteNull name

    /// "spike", where there was one.
    let spike (json: Utf8JsonWriter) (spike: Spike option) : unit =
        spike
        |> Option.iter (fun spike ->
            json.WriteStartObject "spike"
            json.WriteNumber("limit", spike.Limit)
            json.WriteNumber("in_a_row", spike.InARow)
            json.WriteBoolean("skipped", spike.IsSkipped)
            json.WriteEndObject())

/// What a run writes down: `log.jsonl`, an object a line, and TensorBoard's events in `tensorboard`.
[<Sealed; AllowNullLiteral>]
type TrainingLog private (path: string, board: Modules.SummaryWriter) =
    // Without a buffer: what a full disk did not take must not be tried again when the log is closed.
    let file = new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.Read, bufferSize = 0)

    static let stepOf (line: string) =
        try
            use document = JsonDocument.Parse line
            Some(document.RootElement.GetProperty("step").GetInt32())
        with
        | :? JsonException
        | :? InvalidOperationException
        | :? Collections.Generic.KeyNotFoundException -> None

    static let numberOf (value: JsonElement) =
        if value.ValueKind = JsonValueKind.Number then
            Some(value.GetDouble())
        else
            None

    let scalar (tag: string) (value: float) (step: int) = board.add_scalar (tag, float32 value, step)

    let line (step: int) (write: Utf8JsonWriter -> unit) =
        use memory = new MemoryStream()
        using (new Utf8JsonWriter(memory)) (fun json ->
            json.WriteStartObject()
            json.WriteNumber("step", step)
            write json
            json.WriteEndObject())
        memory.WriteByte(byte '\n')
        file.Write(memory.GetBuffer(), 0, int memory.Length)

    let exits (json: Utf8JsonWriter) (name: string) (values: (int * float) seq) =
        json.WriteStartObject name

        for exit, value in values do
            LogJson.number json (string exit) value

        json.WriteEndObject()

    /// Goes on with the log in a folder: what it says of steps after `step` is forgotten.
    static member Open(folder: string, step: int) : TrainingLog =
        let path = RunFolder.logFile folder

        if File.Exists path then
            AtomicFile.write path (fun file ->
                for line in File.ReadLines path do
                    if stepOf line |> Option.exists (fun at -> at <= step) then
                        file.Write(ReadOnlySpan(Encoding.UTF8.GetBytes(line + "\n"))))
            |> Check.getOrRaise

        new TrainingLog(path, torch.utils.tensorboard.SummaryWriter(RunFolder.boardFolder folder, "", false))

    /// What the log in a folder says last, of steps up to `step`: the mean loss of a step, and each exit's mean cross entropy in a validation,
    /// both in nats a token.
    static member Latest(folder: string, step: int) : struct (float option * float[] option) =
        let path = RunFolder.logFile folder

        let next (struct (loss: float option, validation: float[] option)) (line: string) =
            use document = JsonDocument.Parse line

            let field (name: string) =
                match document.RootElement.TryGetProperty name with
                | true, value -> Some value
                | _ -> None

            struct ((match field "loss" with
                     | Some value -> numberOf value
                     | None -> loss),
                    (match field "validation" with
                     | Some exits ->
                         Some [|
                             for exit in exits.EnumerateObject() ->
                                 numberOf exit.Value |> Option.defaultValue nan
                         |]
                     | None -> validation))

        (if File.Exists path then File.ReadLines path else Seq.empty)
        |> Seq.filter (stepOf >> Option.exists (fun at -> at <= step))
        |> Seq.fold next (struct (None, None))

    /// The options from a step on, and what products are computed in by them here.
    member _.Options(step: int, options: TrainingOptions, products: Dtype) : unit =
        line step (fun json ->
            json.WriteString("products", Dtype.name products)
            json.WriteStartObject "options"
            TrainingFields.write json options
            json.WriteEndObject())

    /// A line of other fields, and numbers for TensorBoard under their tags.
    member internal _.Add(step: int, write: Utf8JsonWriter -> unit, numbers: (string * float) list) : unit =
        line step write

        for tag, value in numbers do
            scalar tag value step

    /// What an event says in numbers; that of a checkpoint or of the end says nothing here.
    member _.Write(event: TrainingEvent) : unit =
        match event with
        | TrainingEvent.Stepped report ->
            let loss, entropies = LossSums.perToken report.Sums, LossSums.entropies report.Sums
            let rate = float report.Tokens / report.Seconds

            line report.Step (fun json ->
                LogJson.number json "loss" (defaultArg loss nan)
                exits json "cross_entropy" entropies
                json.WriteNumber("learning_rate", report.LearningRate)
                LogJson.number json "gradient_norm" report.GradientNorm
                json.WriteNumber("tokens", report.Tokens)
                json.WriteNumber("learned_tokens", report.Sums.Tokens)
                json.WriteNumber("padding", report.Padding)

                if report.Kept.Length > 0 then
                    exits json "kept" (report.Kept |> Seq.mapi (fun layer share -> layer + 1, share))

                LogJson.spike json report.Spike
                json.WriteNumber("tokens_per_second", Math.Round(rate, 1)))

            loss |> Option.iter (fun loss -> scalar "train/loss" loss report.Step)
            scalar "train/learning_rate" report.LearningRate report.Step
            scalar "train/gradient_norm" report.GradientNorm report.Step
            scalar "train/tokens_per_second" rate report.Step
            scalar "train/learned_tokens" (float report.Sums.Tokens) report.Step

            for exit, entropy in entropies do
                scalar $"train/cross_entropy/exit_{exit}" entropy report.Step
        | TrainingEvent.Validated(step, entropies) ->
            let entropies = entropies |> Array.mapi (fun i entropy -> i + 1, entropy)

            line step (fun json -> exits json "validation" entropies)

            for exit, entropy in entropies do
                scalar $"validation/cross_entropy/exit_{exit}" entropy step
        | TrainingEvent.Probed(step, accepted) ->
            line step (fun json -> exits json "acceptance" accepted)

            for exit, share in accepted do
                scalar $"acceptance/exit_{exit}" share step
        | TrainingEvent.Saved _
        | TrainingEvent.Ended _ -> ()

    interface IDisposable with
        member _.Dispose() = file.Dispose()
