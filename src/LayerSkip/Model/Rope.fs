namespace LayerSkip

open System
open System.Runtime.InteropServices
open TorchSharp

/// Cosines and signed sines of the rotary angles of some positions, [position; 1; headDim] each.
[<NoEquality; NoComparison>]
type Rope = { Cos: Tensor; Sin: Tensor }

/// Rotary positions, as `Ops.rotate` and the kernels apply them.
[<RequireQualifiedAccess>]
module Rope =
    /// The tables of positions 0 to `positions` - 1: angle i of position t is t theta^(-2i / headDim), or as the
    /// configuration's scaling has it (RoPE, arXiv 2104.09864, equation 15), in float64 whatever the dtype.
    let table (config: LlamaConfig) (positions: int) (dtype: torch.ScalarType) (device: torch.Device) : Rope =
        let struct (frequencies, scale) = RopeAngles.frequencies config
        let half, dims = frequencies.Length, config.HeadDim
        let isSingle = (dtype = torch.ScalarType.Float32)
        let kind = if isSingle then dtype else torch.ScalarType.Float64
        let piece = max 1 (65536 / dims)

        let build (value: float -> float) (firstHalf: float) () =
            let table = torch.empty ([| int64 positions; 1L; int64 dims |], dtype = kind, device = torch.CPU)
            let values = Array.zeroCreate<float>(piece * dims)

            // Not by libtorch, whose threads would spin for milliseconds after it.
            let copy (start: int) length =
                let at (size: int) = Tensors.address table + nativeint start * nativeint (dims * size)

                if isSingle then
                    Marshal.Copy(Array.map float32 values, 0, at 4, length)
                else
                    Marshal.Copy(values, 0, at 8, length)

            for start in 0..piece .. positions - 1 do
                let rows = min piece (positions - start)

                for row in 0 .. rows - 1 do
                    for i in 0 .. half - 1 do
                        let v = scale * value (float (start + row) * frequencies[i])
                        values[row * dims + i] <- firstHalf * v
                        values[row * dims + half + i] <- v

                copy start (rows * dims)

            table.``to`` (dtype, device)

        // The sine of the first half is negative, so that turning is x cos + swap(x) sin.
        { Cos = Scope.one (build cos 1.0); Sin = Scope.one (build sin -1.0) }

    /// Both tables: what to dispose.
    let tensorsOf (rope: Rope) : seq<Tensor> = [ rope.Cos; rope.Sin ]

    /// The rows of `count` positions from `start`, as views.
    let slice (start: int) (count: int) (rope: Rope) : Rope =
        let rows (t: Tensor) = t.narrow (0L, int64 start, int64 count)
        { Cos = rows rope.Cos; Sin = rows rope.Sin }

/// The rotary tables that the sequences of a model share, made when the first of them needs one; they grow with the
/// longest. Another configuration, dtype or device makes them anew.
[<Sealed>]
type RopeTables internal () =
    let gate = obj ()
    let mutable latest: ((LlamaConfig * torch.ScalarType * string) * Rope) option = None
    let mutable disposed = false

    let positions (rope: Rope) = int rope.Cos.shape[0]

    let free () =
        latest |> Option.iter (snd >> Rope.tensorsOf >> Scope.release)
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
