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
            Inputs.notEmpty "adapter-file" "an adapter's .safetensors file" file
            |> AdapterFile.describe checkpoint.Config
            |> Check.getOrRaise
            |> ignore

            Adapters.withFile file checkpoint
        | None -> checkpoint

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
