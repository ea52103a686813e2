namespace LayerSkip

open System
open System.Threading

/// Looks for numbers that are not finite where a token is chosen, and then for where they began.
[<RequireQualifiedAccess>]
module internal Overflow =
    /// Positions that are read again at once.
    let private rowsAtOnce = 256

    let private fault (weights: Weights) place position =
        let held =
            match weights.Kv with
            | Some KvFormat.F16 -> ", with keys and values in f16, largest 65504"
            | _ -> ""

        LayerSkipError.Overflow(place, position, Dtype.name weights.Dtype + held)

    let private placeAfter (weights: Weights) layer =
        if layer = 0 then
            "the embedding"
        else
            $"layer {layer} of {weights.Config.Layers}"

    let private headAfter (weights: Weights) layers =
        if layers = weights.Config.Layers then
            "the head"
        else
            $"the head after layer {layers} of {weights.Config.Layers}"

    /// Logits after `layers` layers are not finite at a position.
    let ofHead (weights: Weights) (layers: int) (position: int) : LayerSkipError =
        fault weights (headAfter weights layers) position

    /// The first layer whose output over a text is not finite, up to `layers`, or the head after them; and the position.
    let tryFind (weights: Weights) (layers: int) (text: int[]) : LayerSkipError option =
        use _inference = Scope.inference ()
        let cache = Cache.create weights layers text.Length
        use _storage = cache.Slab :> IDisposable
        cache.Slab.ClaimFor(text.Length, cache.Stamp, cache.Early, cache.Late) |> ignore

        let inRows start (ids: int[]) =
            let sequence = cache.Slab.Sequence
            let fault place row = fault weights place (start + row)

            let run layer =
                if layer = 0 then
                    sequence.Embed(ids, start)
                else
                    sequence.Run(
                        StatePlace.Exit,
                        layer - 1,
                        1,
                        start,
                        ids.Length,
                        Prefill.Exact,
                        CancellationToken.None
                    )

            let ofLayer layer =
                run layer

                cache.Slab.Storage.Exits.narrow (1L, int64 start, int64 ids.Length)
                |> Tensors.tryFirstNotFinite
                |> Option.map (fault (placeAfter weights layer))

            let ofHead row =
                // A row at a time: a vocabulary is wide.
                Scope.free (fun () ->
                    sequence.Head(StatePlace.Exit, start + row, 1) |> Logits.tryFirstNotFinite)
                |> Option.map (fun _ -> fault (headAfter weights layers) row)

            seq { 0..layers }
            |> Seq.tryPick ofLayer
            |> Option.orElseWith (fun () -> Seq.init ids.Length id |> Seq.tryPick ofHead)

        text
        |> Array.chunkBySize rowsAtOnce
        |> Seq.mapi (fun index ids -> inRows (index * rowsAtOnce) ids)
        |> Seq.tryPick id

    /// What is not finite in logits after `layers` layers of a text, as the exception to throw.
    let exceptionOf (weights: Weights) (layers: int) (text: int[]) : exn =
        let found =
            tryFind weights layers text
            |> Option.defaultWith (fun () -> ofHead weights layers (text.Length - 1))

        LayerSkipException [ found ]

    /// Throws where logits after `layers` layers are not finite; else gives them back. `textUpTo` is the text that a row
    /// of them stands after.
    let guard (weights: Weights) (layers: int) (textUpTo: int -> int[]) (logits: Logits) : Logits =
        match Logits.tryFirstNotFinite logits with
        | None -> logits
        | Some row -> raise (exceptionOf weights layers (textUpTo row))
