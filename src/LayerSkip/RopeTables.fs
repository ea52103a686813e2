namespace LayerSkip

open System
open TorchSharp

/// The rotary tables that the sequences of a model share, made when the first of them needs one; they grow with the
/// longest. Another configuration, dtype or device makes them anew.
[<Sealed>]
type RopeTables internal () =
    let gate = obj ()
    let mutable latest: ((LlamaConfig * torch.ScalarType * string) * Rope) option = None
    let mutable disposed = false

    let positions (rope: Rope) = int rope.Cos.shape[0]

    let free () =
        latest |> Option.iter (snd >> Rope.tensorsOf >> Seq.iter _.Dispose())
        latest <- None

    /// The tables of positions 0 to `needed` - 1 at least, as tensors of the caller's, who disposes them.
    member internal _.Take(config: LlamaConfig, dtype, device: torch.Device, needed: int) : Rope =
        lock gate (fun () ->
            ObjectDisposedException.ThrowIf(disposed, typeof<RopeTables>)
            let key = config, dtype, string device

            let table =
                match latest with
                | Some(made, rope) when made = key && positions rope >= needed -> rope
                | _ ->
                    // In 64 bits, as a context may have any length.
                    let ample = int64 needed + max 256L (int64 needed / 2L)
                    let count = max needed (int (min ample (int64 config.Context)))
                    let rope = Rope.table config count dtype device
                    Scope.own (Rope.tensorsOf rope)
                    free ()
                    latest <- Some(key, rope)
                    rope

            let share (tensor: Tensor) = tensor.alias().DetachFromDisposeScope()
            { Cos = share table.Cos; Sin = share table.Sin })

    interface IDisposable with
        member _.Dispose() =
            lock gate (fun () ->
                disposed <- true
                free ())
