namespace LayerSkip.Cli

open LayerSkip

/// Drafters by their names.
[<RequireQualifiedAccess>]
module internal Drafters =
    /// The model with the adapter of `--adapter-file`, if there is one.
    let withFile (file: string option) (checkpoint: Checkpoint) : Checkpoint =
        match file with
        | Some file ->
            // What is wrong with it is told before anything is done.
            Inputs.notEmpty "adapter-file" "an adapter's .safetensors file, or a folder with one" file
            |> AdapterFile.describe checkpoint.Config
            |> Check.getOrRaise
            |> ignore

            Adapters.withFile file checkpoint
        | None -> checkpoint

    /// Paths of `--past-texts`, before anything is read.
    let checkPast (paths: string list) : unit =
        for path in paths do
            Inputs.notEmpty "past-texts" "a file or folder of texts" path |> ignore

        PastTextFiles.check paths |> Inputs.refuse

    /// The texts of `--past-texts`, if there are some.
    let past (terminal: Terminal) (paths: string list) (checkpoint: Checkpoint) : PastTexts option =
        match paths with
        | [] -> None
        | paths ->
            let past, remarks = PastTextFiles.load PastTexts.DefaultLimit checkpoint paths |> Check.getOrRaise

            remarks |> List.iter (Terminal.remark terminal)
            Some past

    /// What the user should know of where times of passes are kept, where a drafting asks for them.
    let costsRemarks (terminal: Terminal) (plan: DraftingPlan option) : unit =
        if plan |> Option.exists Drafting.asksCosts then
            PassCostsCache.remarks () |> List.iter (Terminal.remark terminal)

    /// The adapter of a model, behind an exit layer or the first it has, which lasts as long as the model.
    let adapter (exit: int option) (checkpoint: Checkpoint) : Adapter =
        Adapters.load exit checkpoint |> Check.getOrRaise

    /// What the user should know of the adapter that drafts, where one does.
    let remarks (terminal: Terminal) (drafting: DraftingOptions) (checkpoint: Checkpoint) : unit =
        if drafting.Drafter = Some DrafterKind.Adapter then
            Adapters.remarks drafting.ExitLayer checkpoint |> List.iter (Terminal.remark terminal)

    /// An adapter's file is for an adapter that drafts.
    let checkFile (file: string option) (drafting: DraftingOptions) : unit =
        if file.IsSome && drafting.Drafter <> Some DrafterKind.Adapter then
            Inputs.usage "--adapter-file goes with --drafter adapter"
