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

    /// Rounds of up to `length` drafts by a drafter, of an exit layer where one is named.
    let strategy (name: DrafterName) (exit: int option) (length: int) (checkpoint: Checkpoint) : Strategy =
        match name with
        | DrafterName.Exit ->
            let exit = exit |> Option.defaultWith (fun () -> fst (Checkpoint.exitAndDraft checkpoint))
            let exit = ExitLayer.TryCreate(checkpoint.Config.Layers, exit) |> Check.getOrRaise
            Strategy.SelfSpeculative(exit, length)
        | DrafterName.Lookup when exit.IsSome ->
            Inputs.usage
                "--drafter lookup and --exit-layer exclude each other: it reads the text alone; leave one out"
        | DrafterName.Lookup -> Strategy.Speculative(Drafter.suffixLookup None, LengthPolicy.Fixed length)
        | DrafterName.Adapter ->
            Strategy.Speculative(AdapterDrafter.create (adapter exit checkpoint), LengthPolicy.Fixed length)
