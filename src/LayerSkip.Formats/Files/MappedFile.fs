namespace LayerSkip

open System
open System.IO
open System.IO.MemoryMappedFiles
open System.Runtime.CompilerServices
open System.Threading
open Microsoft.Win32.SafeHandles

/// A share of a file's bytes in memory, as the system's cache of files holds them: nothing is copied, and programs that read
/// the same file share it. The memory lasts until every share is disposed; to dispose one again does nothing. A program that
/// cuts the file short meanwhile ends this one (SIGBUS); one that renames or deletes it does no harm.
[<Sealed; AllowNullLiteral>]
type MappedFile private (view: MemoryMappedViewAccessor, shares: StrongBox<int>) =
    let mutable held = 1

    static member private Of(file: MemoryMappedFile) : MappedFile =
        use file = file
        new MappedFile(file.CreateViewAccessor(0L, 0L, MemoryMappedFileAccess.Read), StrongBox 1)

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

    /// One more share, for who disposes it too.
    member _.Share() : MappedFile =
        ObjectDisposedException.ThrowIf((Volatile.Read &held = 0), typeof<MappedFile>)
        Interlocked.Increment &shares.Value |> ignore
        new MappedFile(view, shares)

    interface IDisposable with
        member _.Dispose() =
            if Interlocked.Exchange(&held, 0) = 1 && Interlocked.Decrement &shares.Value = 0 then
                view.Dispose()
