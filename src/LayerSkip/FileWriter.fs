namespace LayerSkip

open System
open System.IO
open TorchSharp

/// Files that are written whole or not at all.
[<RequireQualifiedAccess>]
module internal FileWriter =
    let fault (path: string) (e: exn) : LayerSkipError =
        LayerSkipError.BadFile(
            path,
            $"cannot be written: {Option.defaultValue e.Message (MappedFile.fault e)}"
        )

    /// A name beside `path` that nobody else has.
    let beside (path: string) : string = $"{Path.TrimEndingDirectorySeparator path}.{Guid.NewGuid():N}.tmp"

    /// A tensor's values, in pieces that a span can hold.
    let tensor (file: FileStream) (tensor: Tensor) : unit =
        use _scope = torch.NewDisposeScope()
        let flat = tensor.detach().cpu().contiguous().view -1L
        let piece = 1L <<< 24
        let mutable start = 0L

        while start < flat.numel () do
            let count = min piece (flat.numel () - start)
            use part = flat.narrow (0L, start, count)
            file.Write(Span.op_Implicit part.bytes: ReadOnlySpan<byte>)
            start <- start + count

    /// Writes to a file beside `path`, and moves it into place.
    let replace (path: string) (write: FileStream -> unit) : Result<unit, LayerSkipError list> =
        let unfinished = beside path

        try
            try
                using (new FileStream(unfinished, FileMode.CreateNew, FileAccess.Write)) (fun file ->
                    write file
                    file.Flush true)

                File.Move(unfinished, path, true)
                Ok()
            finally
                if File.Exists unfinished then
                    File.Delete unfinished
        with e when (MappedFile.fault e).IsSome ->
            Error [ fault path e ]
