namespace LayerSkip

open System
open System.IO
open System.IO.MemoryMappedFiles
open FSharp.NativeInterop

#nowarn "9" // Native pointers: a mapped file may be longer than a span can be.

/// A file mapped into memory, read-only. Reading after Dispose throws ObjectDisposedException.
[<Sealed>]
type internal MappedFile(path: string, length: int64, file: MemoryMappedFile, view: MemoryMappedViewAccessor)
    =
    member _.Path = path
    /// In bytes.
    member _.Length = length

    member private _.Acquire() : nativeint =
        let mutable first = NativePtr.nullPtr<byte>
        view.SafeMemoryMappedViewHandle.AcquirePointer &first
        NativePtr.toNativeInt first

    /// Calls `body` with the address of the first byte, which stays mapped until `body` returns.
    member this.Borrow(body: nativeint -> 'T) : 'T =
        let first = this.Acquire()

        try
            body first
        finally
            view.SafeMemoryMappedViewHandle.ReleasePointer()

    /// Copies the bytes from `start` on into `destination`.
    member this.Copy(start: int64, destination: Span<byte>) : unit =
        let size = destination.Length

        if start < 0L || start > length - int64 size then
            invalidArg (nameof start) $"bytes {start} to {start + int64 size} of a file of {length}"

        let first = this.Acquire()

        // No closure, so not through Borrow: a span cannot be captured.
        try
            let source = NativePtr.ofNativeInt<byte>(first + nativeint start) |> NativePtr.toVoidPtr
            ReadOnlySpan<byte>(source, size).CopyTo destination
        finally
            view.SafeMemoryMappedViewHandle.ReleasePointer()

    interface IDisposable with
        member _.Dispose() =
            view.Dispose()
            file.Dispose()

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

                    let view = file.CreateViewAccessor(0L, 0L, MemoryMappedFileAccess.Read)
                    Ok(new MappedFile(path, length, file, view))
            with e when (fault e).IsSome ->
                bad (fault e).Value
