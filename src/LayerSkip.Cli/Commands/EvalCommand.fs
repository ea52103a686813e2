namespace LayerSkip.Cli

open System.Diagnostics
open LayerSkip

/// `layerskip eval`: what each exit layer is worth on a task; `Eval` runs it, item by item.
[<RequireQualifiedAccess>]
module internal EvalCommand =
    /// What the command line gives; `Own` names the options that some tasks heed and others do not.
    type private Given = {
        Task: string option
        Own: string list
        Shard: string option
        Output: string option
        Options: EvalOptions
        Decoding: EvalDecoding
    }

    let private nothing = {
        Task = None
        Own = []
        Shard = None
        Output = None
        Options = EvalOptions.ofData []
        Decoding = EvalDecoding.none
    }

    let private own name (given: Given) = { given with Own = name :: given.Own }

    /// The options with one more.
    let private add (given: Given) (argument: EvalArgument) : Given =
        match argument with
        | EvalArgument.Task name -> { given with Task = Some name }
        | EvalArgument.Data file -> { given with Options.Data = given.Options.Data @ [ file ] }
        | EvalArgument.ExitLayers layers -> {
            given with
                Options.ExitLayers = List.ofArray (Inputs.numbers "exit-layers" layers)
          }
        | EvalArgument.Limit count -> { given with Options.Limit = Some count }
        | EvalArgument.Shots count -> own "shots" { given with Options.Shots = Some count }
        | EvalArgument.ShotsFrom file -> own "shots-from" { given with Options.ShotsFrom = Some file }
        | EvalArgument.NoBos -> own "no-bos" { given with Options.NoBos = true }
        | EvalArgument.Documents -> own "documents" { given with Options.Text.Documents = true }
        | EvalArgument.Window tokens -> own "window" { given with Options.Text.Window = Some tokens }
        | EvalArgument.MaxChars count -> own "max-chars" { given with Options.Text.MaxChars = Some count }
        | EvalArgument.Shard part -> { given with Shard = Some part }
        | EvalArgument.Output file -> { given with Output = Some file }
        | decoding ->
            match EvalDecoding.tryAdd given.Decoding decoding with
            | Some(name, decoding) -> own name { given with Decoding = decoding }
            | None -> given

    /// The task, which must heed what is given.
    let private taskOf (given: Given) : EvalTask =
        let names = EvalTasks.all |> List.map _.Name |> String.concat ", "
        let task =
            given.Task
            |> Inputs.required "task" $"what to evaluate: {names}"
            |> EvalTasks.find
            |> Check.getOrRaise

        match given.Own |> List.filter (fun option -> not (List.contains option task.Takes)) with
        | [] -> task
        | foreign ->
            let foreign = foreign |> List.rev |> List.map (fun name -> $"--{name}") |> String.concat ", "
            Inputs.usage $"{foreign} is nothing that task {task.Name} heeds; leave it out"

    /// To run code that nobody has read is the user's decision.
    let private checkCode (task: EvalTask) (given: Given) =
        let option = "allow-code-execution"

        if List.contains option task.Takes && not (List.contains option given.Own) then
            Inputs.usage
                $"task {task.Name} runs Python that the model writes and nobody has read, with limits that make it no safe code (docs/evaluation.md); to run it, add --{option}"

    // What people can follow.
    let private everyMs = 200L

    /// Shows how far a run is, on a terminal.
    let private progress (terminal: Terminal) (task: EvalTask) : int -> int -> unit =
        let watch = Stopwatch.StartNew()
        let mutable next = 0L

        fun number count ->
            if watch.ElapsedMilliseconds >= next then
                next <- watch.ElapsedMilliseconds + everyMs

                terminal.Status.Show
                    $"{task.Name}: item {number + 1} of {count}, {int watch.Elapsed.TotalSeconds} s"

    /// Runs the command; its exit code.
    let run (terminal: Terminal) (common: Common) (arguments: EvalArgument list) : int =
        let given = List.fold add nothing arguments
        let task = taskOf given
        checkCode task given
        let shard = given.Shard |> Option.map (Shard.tryParse >> Check.getOrRaise)

        if given.Options.Data.IsEmpty then
            Inputs.usage $"no --data; name the files of task {task.Name}"

        let options = {
            given.Options with
                Data = given.Options.Data |> List.map (Inputs.notEmpty "data" "a file of items")
                Seed = common.Seed
                Generation = EvalDecoding.resolve given.Decoding
        }

        let output = given.Output |> Option.map (Inputs.notEmpty "output" "the file to write")
        use checkpoint = Inputs.load terminal common
        let plan = Eval.plan checkpoint task options (defaultArg shard Shard.whole) |> Check.getOrRaise
        let watch = Stopwatch.StartNew()
        let cells = Eval.run (progress terminal task) output plan |> Check.getOrRaise
        terminal.Status.Clear()
        Terminal.remark
            terminal
            $"{Inputs.machine checkpoint}: {Shown.fixedPoint 1 watch.Elapsed.TotalSeconds} s"

        if plan.Header.Cells > 0 && (Shard.cells plan.Header.Cells plan.Header.Shard).IsEmpty then
            // More jobs than items are no job's failure; its file is there to be merged.
            let said = $"shard {plan.Header.Shard} has none of the {plan.Header.Cells} items: nothing to do"
            Terminal.remark terminal said

            if common.Json then
                JsonWrite.line (fun json ->
                    json.WriteString("task", task.Name)
                    json.WriteString("shard", string plan.Header.Shard)
                    json.WriteNumber("items", 0))
                |> Terminal.result terminal

            ExitCode.done'
        else

            let report =
                Eval.report EvalTasks.all (defaultArg output "the run") plan.Header cells
                |> Check.getOrRaise

            report
            |> (if common.Json then EvalOutput.json else EvalOutput.table)
            |> Terminal.result terminal

            if report.Summary.Groups |> List.forall (fun group -> group.Different = 0) then
                ExitCode.done'
            else
                Terminal.fault
                    terminal
                    "texts of self-speculation differ from the plain ones, which must not happen; please report it with `layerskip certify`"

                ExitCode.failed
