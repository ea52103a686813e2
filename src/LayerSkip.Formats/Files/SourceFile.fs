namespace LayerSkip

open System
open System.IO
open System.Text
open Microsoft.Win32.SafeHandles

/// Why something cannot be read.
[<RequireQualifiedAccess>]
module internal ReadFault =
    /// In words; None for a bug of ours.
    let why (e: exn) : string option =
        match e with
        | :? UnauthorizedAccessException -> Some "cannot be read: access is denied; change its rights"
        // .NET puts the path behind the system's words.
        | :? IOException -> Some $"""cannot be read: {(e.Message.Split(" : ")[0]).TrimEnd '.'}"""
        | :? NotSupportedException
        | :? ArgumentException -> Some "is no name of a file"
        | _ -> None

/// A file that is open for reading, by its own positions: several threads may read at once. Only blocks that are
/// used where they lie are mapped into memory (`Map`), where a file that another program cuts short would end the process. Reading after Dispose throws ObjectDisposedException.
[<Sealed>]
type internal SourceFile(path: string, handle: SafeFileHandle, length: int64) =
    let mutable mapped: MappedFile = null
    let fault text = Check.throw (LayerSkipError.BadFile(path, text))

    let readSome (destination: Span<byte>) (at: int64) =
        try
            RandomAccess.Read(handle, destination, at)
        with e when (ReadFault.why e).IsSome && not (e :? ObjectDisposedException) ->
            fault (ReadFault.why e).Value

    /// As it was given, for messages.
    member _.Path = path
    /// In bytes, when it was opened.
    member _.Length = length

    /// Copies the bytes from `start` on into `destination`; LayerSkipException where the disk fails or the file has
    /// become shorter.
    member _.Copy(start: int64, destination: Span<byte>) : unit =
        if start < 0L || start > length - int64 destination.Length then
            invalidArg
                (nameof start)
                $"bytes {start} to {start + int64 destination.Length} of a file of {length}"

        let mutable count = 0

        while count < destination.Length do
            match readSome (destination.Slice count) (start + int64 count) with
            | 0 ->
                fault
                    $"ends at byte {start + int64 count} of {length}: it became shorter while it was read; try again when it is whole"
            | more -> count <- count + more

    /// The file in memory, mapped once; it lasts longer than the file is open here. Whoever asks disposes a share of it.
    member _.Map() : MappedFile =
        lock handle (fun () ->
            if isNull mapped then
                try
                    mapped <- MappedFile.OfHandle handle
                with :? IOException as e ->
                    fault $"cannot be mapped into memory: {(ReadFault.why e).Value}"

            mapped.Share())

    interface IDisposable with
        member _.Dispose() =
            if not (isNull mapped) then
                (mapped :> IDisposable).Dispose()

            handle.Dispose()

/// The one way to read what somebody names.
[<RequireQualifiedAccess>]
module internal SourceFile =
    let private told (marks: string list) (what: string) (front: ReadOnlySpan<byte>) : string option =
        let text = (Encoding.ASCII.GetString front).TrimStart('?', ' ', '\t', '\r', '\n')

        Some what
        |> Option.filter (fun _ ->
            marks
            |> List.exists (fun mark -> text.StartsWith(mark, StringComparison.OrdinalIgnoreCase)))

    /// What stands in many a file's place after a clone that did not bring it.
    let pointer (front: ReadOnlySpan<byte>) : string option =
        told
            [ "version https://git-lfs.github.com/" ]
            "is a Git-LFS pointer, not the file that it stands for; run `git lfs pull` in its repository, or download the file itself"
            front

    /// What stands in many a file's place after a download that did not bring it. Some texts are such a page.
    let page (front: ReadOnlySpan<byte>) : string option =
        told
            [ "<!doctype html"; "<html"; "<?xml" ]
            "is a web page (HTML or XML), not the file that was asked for; look at what it says, and download the file again"
            front

    let private stray (front: byte[]) : string option =
        pointer (ReadOnlySpan front) |> Option.orElse (page (ReadOnlySpan front))

    /// What is read from a file, which is closed again if it cannot be.
    let private orClose
        (read: SourceFile -> Result<'T, LayerSkipError list>)
        (file: SourceFile)
        : Result<'T, LayerSkipError list> =
        let result = Check.guard (fun () -> read file)

        if Result.isError result then
            (file :> IDisposable).Dispose()

        result

    let private checkFront (file: SourceFile) : Result<SourceFile, LayerSkipError list> =
        let front = Array.zeroCreate<byte>(int (min file.Length 128L))
        file.Copy(0L, front.AsSpan())

        match stray front with
        | Some what -> Check.bad file.Path what
        | None when front.Length = 0 -> Check.bad file.Path "the file is empty; get it again"
        | None -> Ok file

    /// Opens a regular file; `advice` is for what is none, `hint` for what is not there.
    let private openRegular (share: FileShare) (advice: string) (hint: string) (path: string) =
        let bad text = Check.bad path text

        match PathKind.find path with
        | PathKind.Folder -> bad $"is a folder; {advice}"
        // To open a pipe waits for who writes to it, and a device never ends.
        | PathKind.Special -> bad $"is a pipe, a socket or a device; {advice}"
        // Also what lies in a folder that may not be looked into: to open it tells.
        | PathKind.Nothing
        | PathKind.RegularFile ->
            try
                Ok(File.OpenHandle(path, FileMode.Open, FileAccess.Read, share))
            with
            | :? FileNotFoundException
            | :? DirectoryNotFoundException -> Error [ LayerSkipError.NotFound(path, hint) ]
            | e when (ReadFault.why e).IsSome -> bad (ReadFault.why e).Value

    /// Opens a regular file that holds something; `hint` says what should be there when it is not. It is an error of
    /// the path when it is a folder, a device or a pipe, is empty, or holds a Git-LFS pointer or a web page in place
    /// of the file.
    let openRead (path: string) (hint: string) : Result<SourceFile, LayerSkipError list> =
        openRegular FileShare.Read "a regular file is needed" hint path
        |> Result.bind (fun handle ->
            new SourceFile(path, handle, RandomAccess.GetLength handle) |> orClose checkFront)

    /// Opens a file for whom `read` makes, which then owns it; it is closed where `read` ends with an error.
    let openAs (path: string) (hint: string) (read: SourceFile -> Result<'T, LayerSkipError list>) =
        openRead path hint |> Result.bind (orClose read)

    /// Reads from a file, which is closed afterwards.
    let using (path: string) (hint: string) (read: SourceFile -> Result<'T, LayerSkipError list>) =
        openRead path hint
        |> Result.bind (fun file ->
            use file = file
            Check.guard (fun () -> read file))

    /// Opens what is read once, from its beginning to its end: a regular file, which others may write meanwhile, or a pipe
    /// that is open already (/dev/stdin, a shell's <(command)), for to open one again may wait for ever.
    let openOnce (path: string) (hint: string) : Result<Stream, LayerSkipError list> =
        let stream (handle: SafeFileHandle) = new FileStream(handle, FileAccess.Read, 1) :> Stream

        let openAlready =
            match PathKind.find path with
            | PathKind.Special -> PathKind.descriptor path
            | PathKind.Nothing
            | PathKind.RegularFile
            | PathKind.Folder -> None

        match openAlready with
        | Some number -> Ok(stream (new SafeFileHandle(nativeint number, false)))
        | None -> openRegular FileShare.ReadWrite hint hint path |> Result.map stream

    /// More than any text file of a model has. In bytes.
    let private most = 1L <<< 30

    /// The bytes of a file that is read whole. At most 1 GiB.
    let readAll (path: string) (hint: string) : Result<byte[], LayerSkipError list> =
        using path hint (fun file ->
            if file.Length > most then
                Check.bad
                    path
                    $"has {file.Length} bytes, more than the {most} that a file of its kind may have"
            else
                let bytes = Array.zeroCreate<byte>(int file.Length)
                file.Copy(0L, bytes.AsSpan())
                Ok bytes)

    /// The same of a file that need not be there.
    let tryReadAll (path: string) : Result<byte[] option, LayerSkipError list> =
        match readAll path "" with
        | Error [ LayerSkipError.NotFound _ ] -> Ok None
        | read -> Result.map Some read

    /// The names of what matches a pattern in a folder, in order. As paths that begin with `folder`, in ordinal
    /// order; none is no error.
    let list (folder: string) (pattern: string) : Result<string list, LayerSkipError list> =
        try
            Directory.GetFiles(folder, pattern) |> Array.sort |> List.ofArray |> Ok
        with e when (ReadFault.why e).IsSome ->
            Check.bad folder (ReadFault.why e).Value
