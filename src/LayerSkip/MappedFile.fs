namespace LayerSkip

open System
open System.IO
open System.IO.MemoryMappedFiles
open FSharp.NativeInterop

#nowarn "9" // Native pointers: a mapped file may be longer than a span can be.

/// A file that is mapped into memory piece by piece, read-only: what was read does not stay in the process.
/// Reading after Dispose throws ObjectDisposedException.
[<Sealed>]
type internal MappedFile(path: string, length: int64, file: MemoryMappedFile) =
    member _.Path = path
    /// In bytes.
    member _.Length = length

    member private _.Window(start: int64, size: int64) : MemoryMappedViewAccessor =
        if start < 0L || size < 0L || start > length - size then
            invalidArg (nameof start) $"bytes {start} to {start + size} of a file of {length}"

        file.CreateViewAccessor(start, size, MemoryMappedFileAccess.Read)

    member private _.Acquire(window: MemoryMappedViewAccessor) : nativeint =
        let mutable first = NativePtr.nullPtr<byte>
        window.SafeMemoryMappedViewHandle.AcquirePointer &first
        NativePtr.toNativeInt first + nativeint window.PointerOffset

    /// Calls `body` with the address of byte `start`; `size` bytes from there stay mapped until it returns.
    member this.Borrow(start: int64, size: int64, body: nativeint -> 'T) : 'T =
        use window = this.Window(start, size)
        let first = this.Acquire window

        try
            body first
        finally
            window.SafeMemoryMappedViewHandle.ReleasePointer()

    /// Copies the bytes from `start` on into `destination`.
    member this.Copy(start: int64, destination: Span<byte>) : unit =
        let size = destination.Length

        if size > 0 then
            use window = this.Window(start, int64 size)
            let first = this.Acquire window

            // No closure, so not through Borrow: a span cannot be captured.
            try
                let source = NativePtr.ofNativeInt<byte> first |> NativePtr.toVoidPtr
                ReadOnlySpan<byte>(source, size).CopyTo destination
            finally
                window.SafeMemoryMappedViewHandle.ReleasePointer()

    interface IDisposable with
        member _.Dispose() = file.Dispose()

[<RequireQualifiedAccess>]
module internal MappedFile =
    /// What the file system throws, as one line; None for a bug of ours.
    let fault (e: exn) : string option =
        match e with
        | :? IOException
        | :? UnauthorizedAccessException
        | :? ArgumentException
        | :? NotSupportedException -> Some(e.Message.ReplaceLineEndings " ")
        | _ -> None

    /// Maps a whole file; `hint` says what should be there when it is not.
    let openRead (path: string) (hint: string) : Result<MappedFile, LayerSkipError list> =
        let bad text = Error [ LayerSkipError.BadFile(path, text) ]

        if Directory.Exists path then
            bad "this is a folder, a file is needed"
        elif not (File.Exists path) then
            Error [ LayerSkipError.NotFound(path, hint) ]
        else
            try
                let stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read)

                if stream.Length = 0L then
                    stream.Dispose()
                    bad "the file is empty"
                else
                    let length = stream.Length

                    let file =
                        MemoryMappedFile.CreateFromFile(
                            stream,
                            null,
                            0L,
                            MemoryMappedFileAccess.Read,
                            HandleInheritability.None,
                            false
                        )

                    Ok(new MappedFile(path, length, file))
            with e when (fault e).IsSome ->
                bad (fault e).Value
