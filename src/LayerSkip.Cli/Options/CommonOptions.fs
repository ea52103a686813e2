namespace LayerSkip.Cli

/// Which of the options of every sub-command a sub-command has a use for.
[<RequireQualifiedAccess>]
module internal CommonOptions =
    let private computing = [ "compute"; "kv"; "prefill" ]
    let private loading = [ "model"; "device"; "dtype" ] @ computing

    /// The sub-command's name, as it is typed.
    let command (argument: Argument option) : string =
        match argument with
        | Some(Argument.Info _) -> "info"
        | Some(Argument.Export _) -> "export"
        | Some(Argument.Train _) -> "train"
        | Some(Argument.Tokenizer _) -> "tokenizer train"
        | Some(Argument.Merge _) -> "merge"
        | Some(Argument.Pull _) -> "pull"
        | Some(Argument.Serve _) -> "serve"
        | _ -> ""

    /// The options that a sub-command has no use for, without dashes.
    let inVain (command: string) : string list =
        match command with
        | "info" -> [ "prefill"; "seed" ]
        | "export" -> computing @ [ "seed" ]
        | "train" -> computing
        | "tokenizer"
        | "tokenizer train" -> loading @ [ "seed" ]
        | "merge"
        | "pull" -> loading @ [ "threads"; "seed" ]
        | "serve" -> [ "seed" ]
        | _ -> []

    /// The name of a given one, without dashes; None of sub-commands, and of what every one of them takes.
    let name (argument: Argument) : string option =
        match argument with
        | Argument.Model _ -> Some "model"
        | Argument.Device _ -> Some "device"
        | Argument.Dtype _ -> Some "dtype"
        | Argument.Compute _ -> Some "compute"
        | Argument.Kv _ -> Some "kv"
        | Argument.Prefill _ -> Some "prefill"
        | Argument.Threads _ -> Some "threads"
        | Argument.Seed _ -> Some "seed"
        | _ -> None
