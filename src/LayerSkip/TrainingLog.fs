namespace LayerSkip

open System
open System.IO
open System.Text
open System.Text.Json
open TorchSharp

/// What a run writes down: `log.jsonl`, an object a line, and TensorBoard's events in `tensorboard`.
[<Sealed; AllowNullLiteral>]
type TrainingLog private (path: string, board: Modules.SummaryWriter) =
    let file = new StreamWriter(path, true, UTF8Encoding false, AutoFlush = true)

    static let stepOf (line: string) =
        try
            use document = JsonDocument.Parse line
            Some(document.RootElement.GetProperty("step").GetInt32())
        with
        | :? JsonException
        | :? InvalidOperationException
        | :? Collections.Generic.KeyNotFoundException -> None

    let scalar (tag: string) (value: float) (step: int) = board.add_scalar (tag, float32 value, step)

    let line (write: Utf8JsonWriter -> unit) =
        use memory = new MemoryStream()
        using (new Utf8JsonWriter(memory)) (fun json ->
            json.WriteStartObject()
            write json
            json.WriteEndObject())
        file.WriteLine(Encoding.UTF8.GetString(memory.GetBuffer(), 0, int memory.Length))

    let exits (json: Utf8JsonWriter) (name: string) (values: (int * float) seq) =
        json.WriteStartObject name

        for exit, value in values do
            json.WriteNumber(string exit, value)

        json.WriteEndObject()

    /// Mean cross entropy of the exits that learned.
    let entropies (report: StepReport) = [
        for exit in 1 .. report.Shares.Length do
            if report.Sums.CrossEntropy[exit - 1] > 0.0 then
                exit, report.Sums.CrossEntropy[exit - 1] / float report.Sums.Tokens
    ]

    /// Goes on with the log in a folder: what it says of steps after `step` is forgotten.
    static member Open(folder: string, step: int) : TrainingLog =
        let path = Path.Combine(folder, "log.jsonl")

        if File.Exists path then
            let kept =
                File.ReadAllLines path
                |> Array.filter (fun line -> stepOf line |> Option.exists (fun at -> at <= step))

            FileWriter.replace path (fun file ->
                for line in kept do
                    file.Write(ReadOnlySpan(Encoding.UTF8.GetBytes(line + "\n"))))
            |> Check.getOrRaise

        new TrainingLog(
            path,
            torch.utils.tensorboard.SummaryWriter(Path.Combine(folder, "tensorboard"), "", false)
        )

    member _.Write(event: TrainingEvent) : unit =
        match event with
        | TrainingEvent.Stepped report ->
            let tokens = float (max 1 report.Sums.Tokens)
            let loss = report.Sums.Objective / tokens
            let rate = float report.Tokens / report.Seconds

            line (fun json ->
                json.WriteNumber("step", report.Step)
                json.WriteNumber("loss", loss)
                exits json "cross_entropy" (entropies report)
                json.WriteNumber("learning_rate", report.LearningRate)
                json.WriteNumber("gradient_norm", report.GradientNorm)
                json.WriteNumber("tokens", report.Tokens)
                json.WriteNumber("tokens_per_second", Math.Round(rate, 1)))

            scalar "train/loss" loss report.Step
            scalar "train/learning_rate" report.LearningRate report.Step
            scalar "train/gradient_norm" report.GradientNorm report.Step
            scalar "train/tokens_per_second" rate report.Step

            for exit, entropy in entropies report do
                scalar $"train/cross_entropy/exit_{exit}" entropy report.Step
        | TrainingEvent.Validated(step, entropies) ->
            let entropies = entropies |> Array.mapi (fun i entropy -> i + 1, entropy)

            line (fun json ->
                json.WriteNumber("step", step)
                exits json "validation" entropies)

            for exit, entropy in entropies do
                scalar $"validation/cross_entropy/exit_{exit}" entropy step
        | TrainingEvent.Probed(step, accepted) ->
            line (fun json ->
                json.WriteNumber("step", step)
                exits json "acceptance" accepted)

            for exit, share in accepted do
                scalar $"acceptance/exit_{exit}" share step
        | TrainingEvent.Saved _
        | TrainingEvent.Ended _ -> ()

    interface IDisposable with
        member _.Dispose() = file.Dispose()
