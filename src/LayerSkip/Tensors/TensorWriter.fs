namespace LayerSkip

open System
open System.IO
open TorchSharp

/// Tensors as bytes of files.
[<RequireQualifiedAccess>]
module TensorWriter =
    /// A tensor's values in a dtype, in pieces that a span can hold.
    let internal write (dtype: torch.ScalarType) (tensor: Tensor) (file: Stream) : unit =
        use _scope = Scope.start ()
        let flat = tensor.to_type(dtype).detach().cpu().contiguous().view -1L
        let piece = 1L <<< 24
        let mutable start = 0L

        while start < flat.numel () do
            let count = min piece (flat.numel () - start)
            use part = flat.narrow (0L, start, count)
            file.Write(Span.op_Implicit part.bytes: ReadOnlySpan<byte>)
            start <- start + count

    /// Values to write in a dtype, which `make` makes when their turn comes; one tensor at a time is then in memory.
    let internal item
        (name: string)
        (shape: int64[])
        (dtype: Dtype)
        (make: unit -> Tensor)
        : TensorItem<Dtype> = {
        Name = name
        Shape = shape
        Format = dtype
        Size = Array.fold (*) (int64 (Dtype.bytes dtype)) shape
        Write =
            fun file ->
                use _scope = Scope.start ()
                write (ScalarType.ofDtype dtype) (make ()) file
    }

    /// Writes a safetensors file of named tensors in the dtypes they have (F64, F32, F16, BF16; another is an error),
    /// replacing `path` only once all is on disk. Views are written as they show, and tensors of a GPU piece by piece.
    let safetensors
        (path: string)
        (metadata: Map<string, string>)
        (tensors: (string * Tensor) seq)
        : Result<unit, LayerSkipError list> =
        let results = [
            for name, tensor in tensors do
                match ScalarType.tryDtype tensor.dtype with
                | Some dtype -> Ok(item name tensor.shape dtype (fun () -> tensor.alias ()))
                | None ->
                    Check.unsupported $"tensor {name} of {tensor.dtype}" "F64, F32, F16 and BF16 are written"
        ]

        let items = List.choose Result.toOption results

        match List.collect Check.faults results with
        | [] -> Safetensors.write path metadata items
        | faults -> Error(faults @ SafetensorsWriter.faults path items)
