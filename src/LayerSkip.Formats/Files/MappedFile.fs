namespace LayerSkip

open System
open System.IO
open System.IO.MemoryMappedFiles
open System.Threading
open Microsoft.Win32.SafeHandles

/// A file's bytes in memory, as the system's cache of files holds them: nothing is copied, and programs that read the same
/// file share it. It lasts until whoever mapped it and all who shared it have disposed it. A program that cuts the file short
/// meanwhile ends this one (SIGBUS); one that renames or deletes it does no harm.
[<Sealed; AllowNullLiteral>]
type MappedFile private (view: MemoryMappedViewAccessor) =
    let mutable users = 1

    static member private Of(file: MemoryMappedFile) : MappedFile =
        use file = file
        new MappedFile(file.CreateViewAccessor(0L, 0L, MemoryMappedFileAccess.Read))

    /// The whole file, also when the handle is closed.
    static member internal OfHandle(handle: SafeFileHandle) : MappedFile =
        MemoryMappedFile.CreateFromFile(
            handle,
            null,
            0L,
            MemoryMappedFileAccess.Read,
            HandleInheritability.None,
            true
        )
        |> MappedFile.Of

    /// Zeros, in no file.
    static member Zeros(bytes: int64) : MappedFile = MappedFile.Of(MemoryMappedFile.CreateNew(null, bytes))

    /// Where byte 0 lies.
    member _.Address: nativeint =
        view.SafeMemoryMappedViewHandle.DangerousGetHandle() + nativeint view.PointerOffset

    /// One more user, who disposes it too.
    member this.Share() : MappedFile =
        ObjectDisposedException.ThrowIf(Interlocked.Increment &users <= 1, typeof<MappedFile>)
        this

    interface IDisposable with
        member _.Dispose() =
            if Interlocked.Decrement &users = 0 then
                view.Dispose()
