namespace LayerSkip.Cli

open System.IO
open LayerSkip

/// `layerskip merge`: the files of a run's shards as one, and what the whole run came to, as its own command tells it.
[<RequireQualifiedAccess>]
module internal MergeCommand =
    /// What the report of a whole run says, as JSON or for people: a line for each kind of run.
    let private reports
        (isJson: bool)
        : (string * (string -> RunHeader -> RunCell list -> Result<string, LayerSkipError list>)) list = [
        "eval",
        fun path header cells ->
            Eval.report EvalTasks.all path header cells
            |> Result.map (if isJson then EvalOutput.json else EvalOutput.table)
        "sweep",
        fun path header cells ->
            SweepReport.ofRun path header cells
            |> Result.map (if isJson then SweepTable.json else SweepTable.table)
    ]

    let private reportOf (isJson: bool) (path: string) (header: RunHeader) (cells: RunCell list) =
        match reports isJson |> List.tryFind (fst >> (=) header.Kind) with
        | Some(_, report) -> report path header cells
        | None -> Check.bad path $"is of a run of kind \"{header.Kind}\", which this version does not know"

    /// Runs the command; its exit code.
    let run (terminal: Terminal) (common: Common) (arguments: MergeArgument list) : int =
        let files =
            arguments
            |> List.collect (fun argument ->
                match argument with
                | MergeArgument.Files files -> files
                | MergeArgument.Output _ -> [])
            |> List.map (Inputs.notEmpty "output" "the files to merge")

        let output =
            arguments
            |> List.tryPick (fun argument ->
                match argument with
                | MergeArgument.Output file -> Some(Inputs.notEmpty "output" "the file to write" file)
                | MergeArgument.Files _ -> None)

        if files.IsEmpty then
            Inputs.usage "no file to merge; name those that the shards of one run wrote"

        for path in Option.toList output do
            if files |> List.exists (fun file -> Path.GetFullPath file = Path.GetFullPath path) then
                Inputs.usage $"--output is {path}, which this command reads; name another file"

        let header, cells = RunFile.merge files |> Check.getOrRaise
        let report = reportOf common.Json files.Head header cells |> Check.getOrRaise

        for path in Option.toList output do
            RunFile.write path header cells |> Check.getOrRaise

        Terminal.result terminal report
        ExitCode.done'
