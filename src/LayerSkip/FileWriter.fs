namespace LayerSkip

open System
open System.IO
open TorchSharp

/// Tensors as bytes of a file.
[<RequireQualifiedAccess>]
module internal FileWriter =
    /// A tensor's values, in pieces that a span can hold.
    let tensor (file: Stream) (tensor: Tensor) : unit =
        use _scope = torch.NewDisposeScope()
        let flat = tensor.detach().cpu().contiguous().view -1L
        let piece = 1L <<< 24
        let mutable start = 0L

        while start < flat.numel () do
            let count = min piece (flat.numel () - start)
            use part = flat.narrow (0L, start, count)
            file.Write(Span.op_Implicit part.bytes: ReadOnlySpan<byte>)
            start <- start + count
