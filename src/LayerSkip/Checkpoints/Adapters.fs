namespace LayerSkip

/// The adapters of a model: those that it came with, or that are named beside it.
[<RequireQualifiedAccess>]
module Adapters =
    /// The same model with the adapter in a file, or in a folder (a model's, a run's) under its usual name, before its own.
    let withFile (path: string) (checkpoint: Checkpoint) : Checkpoint =
        let path = AdapterFile.located path

        { checkpoint with Adapters = path :: List.filter ((<>) path) checkpoint.Adapters }

    /// An adapter's file, its exit, and the fingerprint of the base that it was made for.
    type private Found = { Path: string; Exit: ExitLayer; Base: string }

    /// The first of a model's adapters, or the first behind an exit layer; every fault of them.
    let private find (exit: int option) (checkpoint: Checkpoint) : Result<Found, LayerSkipError list> =
        checkpoint.Adapters
        |> List.map (fun path ->
            AdapterFile.describe checkpoint.Config path
            |> Result.map (fun (struct (exit, mark)) -> { Path = path; Exit = exit; Base = mark }))
        |> Check.list
        |> Result.bind (fun found ->
            match exit, found with
            | _, [] ->
                Check.bad
                    checkpoint.Path
                    "has no adapter; train one for it by the recipe adapter, or name the file of one"
            | None, first :: _ -> Ok first
            | Some layer, _ ->
                match found |> List.tryFind (fun own -> own.Exit.Layers = layer) with
                | Some own -> Ok own
                | None ->
                    let have = found |> List.map (fun own -> string own.Exit.Layers) |> String.concat " or "
                    Check.outOfRange "exit-layer" (string layer) $"{have}, which has an adapter")

    /// That adapter, which shares embedding and head with the model, and must go before it does. An error: there is none, or none behind that
    /// layer, or it is for a model of other sizes.
    let load (exit: int option) (checkpoint: Checkpoint) : Result<Adapter, LayerSkipError list> =
        find exit checkpoint
        |> Result.bind (fun found -> AdapterFile.load checkpoint.Weights found.Path)

    /// Every adapter of a model, as `load` gives one.
    let all (checkpoint: Checkpoint) : Result<Adapter list, LayerSkipError list> =
        checkpoint.Adapters |> List.map (AdapterFile.load checkpoint.Weights) |> Check.list

    /// What the user should know of that adapter: sentences; none where there is no such.
    let remarks (exit: int option) (checkpoint: Checkpoint) : string list =
        match find exit checkpoint with
        | Ok found -> AdapterFile.remarks checkpoint.Weights found.Path found.Base
        | Error _ -> []

    /// A model that is no other's draft any more: the layers up to an adapter's exit, then what the adapter has of a layer, its norm, and
    /// the head that they share. An error of a form that no plain decoder has: a map.
    let asModel (adapter: Adapter) (checkpoint: Checkpoint) : Result<Checkpoint, LayerSkipError list> =
        let weights, own = checkpoint.Weights, adapter.Weights
        let exit = adapter.Exit.Layers

        if adapter.Map.IsSome then
            Check.unsupported
                "a low-rank adapter as layers of a draft model"
                "export the whole model with it, or an adapter that is a norm or a block"
        else
            let config = {
                weights.Config with
                    Layers = exit + own.Config.Layers
                    Windows = Array.append (Array.truncate exit weights.Config.Windows) own.Config.Windows
            }

            Ok {
                checkpoint with
                    Recommended = None
                    Adapters = []
                    Weights = {
                        weights with
                            Config = config
                            Kernels = None
                            Parts = {
                                weights.Parts with
                                    Norm = own.Norm
                                    Layers = Array.append (Array.truncate exit weights.Layers) own.Layers
                            }
                    }
            }
