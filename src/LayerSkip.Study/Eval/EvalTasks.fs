namespace LayerSkip

/// The tasks that there are. To add one: make a value of `EvalTask`, and put it here.
[<RequireQualifiedAccess>]
module EvalTasks =
    /// All of them, in the order in which they are told.
    let all: EvalTask list = Perplexity.task :: ChoiceTasks.all @ GenerationTask.tasks

    /// The task of that name. Errors: there is none; the message lists those there are.
    let find (name: string) : Result<EvalTask, LayerSkipError list> =
        match all |> List.tryFind (fun task -> task.Name = name) with
        | Some task -> Ok task
        | None ->
            let names = all |> List.map _.Name |> String.concat ", "
            Check.outOfRange "task" $"\"{name}\"" $"one of {names}"
