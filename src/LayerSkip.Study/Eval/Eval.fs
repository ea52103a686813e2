namespace LayerSkip

open System.Text.Json

/// An evaluation that is ready to run.
[<NoEquality; NoComparison>]
type EvalPlan = { Task: EvalTask; Work: EvalWork; Header: RunHeader }

/// What an evaluation came to: all of it, or so far as its cells go.
[<NoEquality; NoComparison>]
type EvalReport = {
    Task: string
    /// What was run.
    Header: RunHeader
    /// Items that are scored.
    Done: int
    Summary: EvalSummary
}

/// A task over a model's exits, item by item. A run's file holds a line for each item, which is all that reports and merged
/// runs are made of: neither model nor data is needed for them.
[<RequireQualifiedAccess>]
module Eval =
    let private kind = "eval"

    let private check (checkpoint: Checkpoint) (options: EvalOptions) : LayerSkipError list =
        let layers = checkpoint.Config.Layers

        [
            if options.Data.IsEmpty then
                LayerSkipError.Unsupported("an evaluation without data", "name its files")

            for exit in options.ExitLayers do
                yield!
                    Check.inRange
                        (1 <= exit && exit <= layers)
                        "exit-layers"
                        (string exit)
                        $"{LayerSkipError.oneTo layers}: the model has {layers} layers"

            for limit in Option.toList options.Limit do
                yield! Check.inRange (limit >= 1) "limit" (string limit) "1 or more"

            for shots in Option.toList options.Shots do
                yield! Check.inRange (shots >= 0) "shots" (string shots) "0 or more"
        ]

    let private config
        (checkpoint: Checkpoint)
        (model: string)
        (files: (string * string) list)
        (task: EvalTask)
        (options: EvalOptions)
        (work: EvalWork)
        =
        RunFile.json (fun json ->
            let text (name: string) (value: string) = json.WriteString(name, value)

            let list (name: string) (items: 'T list) (write: 'T -> unit) =
                json.WriteStartArray name
                List.iter write items
                json.WriteEndArray()

            let weights = checkpoint.Weights
            text "task" task.Name
            text "model" (Fingerprint.name checkpoint.Path)
            text "model_sha256" model
            text "dtype" (Weights.dtypeName weights)
            Weights.compute weights |> Option.iter (text "compute")
            text "kv" (Weights.kv weights)
            text "prefill" (Prefill.name weights.Prefill)

            list "data" files (fun (path, hash) ->
                json.WriteStartObject()
                text "file" (Fingerprint.name path)
                text "sha256" hash
                json.WriteEndObject())

            list "exit_layers" work.ExitLayers json.WriteNumberValue
            json.WriteNumber("seed", options.Seed)
            work.Settings json
            list "remarks" work.Remarks json.WriteStringValue)

    /// Reads a task's files. Errors: files and options that do not fit, every one of them.
    let plan
        (checkpoint: Checkpoint)
        (task: EvalTask)
        (options: EvalOptions)
        (shard: Shard)
        : Result<EvalPlan, LayerSkipError list> =
        Check.all (check checkpoint options) ()
        |> Result.bind (fun () -> task.Prepare checkpoint options)
        |> Result.bind (fun work ->
            let files = options.Data @ work.Files

            Check.both
                (Fingerprint.ofModel checkpoint.Path)
                (files |> List.map Fingerprint.ofFile |> Check.list)
            |> Result.map (fun (model, hashes) ->
                let items = options.Limit |> Option.map (min work.Items) |> Option.defaultValue work.Items

                {
                    Task = task
                    Work = work
                    Header = {
                        Kind = kind
                        Config = config checkpoint model (List.zip files hashes) task options work
                        Cells = items
                        Shard = shard
                    }
                }))

    let private scoreAll (plan: EvalPlan) (cells: int list) (progress: int -> unit) add =
        let score (number: int, cell: int) =
            progress number
            add (cell, EvalCell.write (plan.Work.Score cell))

        cells |> List.indexed |> Check.each score

    /// Scores the items that are the shard's: into the file `output`, where the items that stand there already are done, or
    /// nowhere. `progress` gets how many are done of how many, before each. Errors: a file of another run, or one that cannot
    /// be written.
    let run
        (progress: int -> int -> unit)
        (output: string option)
        (plan: EvalPlan)
        : Result<RunCell list, LayerSkipError list> =
        match output with
        | Some path ->
            RunWriter.Open(path, plan.Header)
            |> Result.bind (fun writer ->
                use writer = writer
                let left = writer.Left
                let there = writer.Cells.Length

                scoreAll plan left (fun number -> progress (there + number) (there + left.Length)) writer.Add
                |> Result.map (fun () -> writer.Cells))
        | None ->
            let cells = [
                for cell in 0 .. plan.Header.Cells - 1 do
                    if Shard.owns cell plan.Header.Shard then
                        cell
            ]

            let found = ResizeArray<RunCell>()

            let add (cell: int, write: Utf8JsonWriter -> unit) =
                let line =
                    RunFile.json (fun json ->
                        json.WriteNumber("cell", cell)
                        write json)

                Ok(found.Add { Cell = cell; Json = line })

            scoreAll plan cells (fun number -> progress number cells.Length) add
            |> Result.map (fun () -> List.ofSeq found)

    /// The configuration of a run as JSON.
    let private configOf (header: RunHeader) (read: JsonElement -> 'T) : 'T =
        use document = JsonDocument.Parse header.Config
        read document.RootElement

    /// What the cells of a run come to, by the task of theirs among `tasks`; `path` is for messages. Errors: a run of another
    /// kind or task, a cell that is damaged, no cell at all.
    let report
        (tasks: EvalTask list)
        (path: string)
        (header: RunHeader)
        (cells: RunCell list)
        : Result<EvalReport, LayerSkipError list> =
        let text (name: string) (root: JsonElement) =
            match root.TryGetProperty name with
            | true, value when value.ValueKind = JsonValueKind.String -> value.GetString()
            | _ -> ""

        let remarks (root: JsonElement) =
            match root.TryGetProperty "remarks" with
            | true, value when value.ValueKind = JsonValueKind.Array -> [
                for remark in value.EnumerateArray() do
                    if remark.ValueKind = JsonValueKind.String then
                        remark.GetString()
              ]
            | _ -> []

        let name = configOf header (text "task")

        match tasks |> List.tryFind (fun task -> task.Name = name && header.Kind = kind) with
        | None -> Check.bad path $"is of no evaluation that this version knows: {header.Kind} {name}"
        | Some _ when cells.IsEmpty -> Check.bad path "holds no item that is scored yet; let its run go on"
        | Some task ->
            cells
            |> List.map (EvalCell.read path)
            |> Check.list
            |> Result.map (fun scores ->
                let summary = task.Sum scores

                {
                    Task = name
                    Header = header
                    Done = cells.Length
                    Summary = { summary with Remarks = configOf header remarks @ summary.Remarks }
                })
