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
                yield! Check.atLeast 1 "limit" limit

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
        JsonWrite.line (fun json ->
            let text (name: string) (value: string) = json.WriteString(name, value)

            let weights = checkpoint.Weights
            text "task" task.Name
            text "model" (Fingerprint.name checkpoint.Path)
            text "model_sha256" model
            text "dtype" (Weights.dtypeName weights)
            text "held_in" (Weights.description weights)
            Weights.compute weights |> Option.iter (text "compute")
            text "kv" (Weights.kv weights)
            text "prefill" (Prefill.name weights.Prefill)

            json
            |> JsonWrite.objects "data" files (fun (path, hash) ->
                text "file" (Fingerprint.name path)
                text "sha256" hash)

            json |> JsonWrite.ints "exit_layers" work.ExitLayers
            json.WriteNumber("seed", options.Seed)
            work.Settings json
            json |> JsonWrite.array "remarks" work.Remarks json.WriteStringValue)

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

    /// Scores the items that are the shard's: into the file `output`, where the items that stand there already are done, or
    /// nowhere. `progress` gets how many are done of how many, before each. Errors: a file of another run, or one that cannot
    /// be written.
    let run
        (progress: int -> int -> unit)
        (output: string option)
        (plan: EvalPlan)
        : Result<RunCell list, LayerSkipError list> =
        let count = (Shard.cells plan.Header.Cells plan.Header.Shard).Length

        Run.cells output plan.Header (fun left add ->
            let score (index: int, cell: int) =
                progress (count - left.Length + index) count
                add (cell, EvalCell.write (plan.Work.Score cell))

            left |> List.indexed |> Check.each score)

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
