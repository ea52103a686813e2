namespace LayerSkip

open System
open System.IO
open System.Text
open System.Threading

/// Files and folders under way beside their places: what must not stay when a fault or a signal ends the work.
[<RequireQualifiedAccess>]
module internal Unfinished =
    let private gate = obj ()
    let mutable private paths: string list = []

    // Long enough for the other names of a folder, short enough for the system.
    let private longest = 200

    let rec private cut (name: string) =
        if Encoding.UTF8.GetByteCount name <= longest then
            name
        else
            cut name[.. name.Length - 2]

    /// A name beside `path` that nobody else has.
    let beside (path: string) : string =
        let path = Path.TrimEndingDirectorySeparator path
        let unique = Guid.NewGuid().ToString("N").Substring(0, 8)
        let name = $"{cut (Path.GetFileName path)}.{unique}.tmp"

        match Path.GetDirectoryName path with
        | null -> name
        | folder -> Path.Combine(folder, name)

    // What cannot be deleted stays: the fault that ended the work is the one to tell.
    let private delete (path: string) =
        try
            if Directory.Exists path then
                Directory.Delete(path, true)
            else
                File.Delete path
        with
        | :? IOException
        | :? UnauthorizedAccessException -> ()

    /// Makes a file or folder while no signal can come between; it is unfinished from then on.
    let start (path: string) (make: unit -> 'T) : 'T =
        lock gate (fun () ->
            let made = make ()
            paths <- path :: paths
            made)

    /// Moves it to its place, while no signal can come between; it is unfinished no more.
    let finish (path: string) (move: unit -> unit) : unit =
        lock gate (fun () ->
            move ()
            paths <- List.filter ((<>) path) paths)

    /// Deletes it; what cannot be deleted stays, without an error.
    let discard (path: string) : unit = finish path (fun () -> delete path)

    /// Deletes them all, for good: whoever would make one after it waits for ever.
    let discardAll () : unit =
        if Monitor.TryEnter(gate, TimeSpan.FromSeconds 1.0) then
            List.iter delete paths

/// What the file system answers to who writes.
[<RequireQualifiedAccess>]
module internal WriteFault =
    // As Linux numbers them: a fault of the device, a file too large, no space, no quota.
    let private ofDevice = [ 5; 27; 28; 122 ]

    /// Why something cannot be written, in words; None for a bug of ours.
    let why (e: exn) : string option =
        match e with
        | :? UnauthorizedAccessException -> Some "access is denied"
        | :? DirectoryNotFoundException -> Some "its folder is not there"
        // What .NET makes of a path that hangs on a current folder which is none.
        | :? FileNotFoundException as e when isNull e.FileName -> Some "the current folder has been deleted"
        // A folder that takes no new files, as /proc.
        | :? FileNotFoundException -> Some "nothing can be written in its folder"
        // What .NET makes of a file too large for `ulimit -f` or the file system.
        | :? ArgumentOutOfRangeException -> Some "it is larger than the system's limit for a file (ulimit -f)"
        | :? IOException -> Some((e.Message.ReplaceLineEndings(" ").Split(" : ")[0]).TrimEnd '.')
        | :? NotSupportedException
        | :? ArgumentException -> Some((e.Message.ReplaceLineEndings " ").TrimEnd '.')
        | _ -> None

    /// Of a path that nothing has been written to.
    let refused (path: string) (why: string) : LayerSkipError =
        LayerSkipError.BadFile(path, $"cannot be written: {why}; name another place")

    /// While writing.
    let failed (path: string) (why: string) : LayerSkipError = LayerSkipError.NotWritten(path, why)

    /// What was thrown while writing.
    let ofWriting (path: string) (e: exn) : LayerSkipError list option =
        why e |> Option.map (fun why -> [ failed path why ])

    /// What was thrown before anything was written: a full disk is no fault of the path.
    let ofOpening (path: string) (e: exn) : LayerSkipError list option =
        let fault =
            match e with
            | :? IOException when List.contains e.HResult ofDevice -> failed
            | _ -> refused

        why e |> Option.map (fun why -> [ fault path why ])

    /// The result of `work`, or the fault that it threw.
    let guard (explain: exn -> LayerSkipError list option) (work: unit -> Result<'T, LayerSkipError list>) =
        try
            work ()
        with e when (explain e).IsSome ->
            Error (explain e).Value

/// A file that is written whole or not at all, and found unwritable before any work is done. A symbolic link stays, and
/// what it names is written; a device or a FIFO is written into, not replaced; an old file's mode is the new one's.
/// Disposing of it before it is whole leaves what was there.
[<Sealed>]
type AtomicFile private (path: string, stream: FileStream, unfinished: string option, place: string) =
    let mutable isWhole = false

    static let openDirectly path full =
        let stream = new FileStream(full, FileMode.Append, FileAccess.Write, FileShare.ReadWrite)
        Ok(new AtomicFile(path, stream, None, full))

    static let openBeside path (file: string) =
        if File.Exists file && File.GetAttributes(file).HasFlag FileAttributes.ReadOnly then
            Error [ WriteFault.refused path "it is read-only" ]
        else
            let unfinished = Unfinished.beside file

            let stream =
                Unfinished.start unfinished (fun () ->
                    new FileStream(unfinished, FileMode.CreateNew, FileAccess.Write, FileShare.Read))

            if File.Exists file && not (OperatingSystem.IsWindows()) then
                File.SetUnixFileMode(stream.SafeFileHandle, File.GetUnixFileMode file)

            Ok(new AtomicFile(path, stream, Some unfinished, file))

    /// Opens a file to write, which is not there, or is, until it is whole, what it was.
    static member Open(path: string) : Result<AtomicFile, LayerSkipError list> =
        WriteFault.guard (WriteFault.ofOpening path) (fun () ->
            if String.IsNullOrWhiteSpace path then
                Error [ WriteFault.refused path "it is no name" ]
            else
                let full = Path.GetFullPath path

                match PathKind.find full with
                | PathKind.Folder -> Error [ WriteFault.refused path "it is a folder" ]
                | PathKind.Special -> openDirectly path full
                | PathKind.Nothing
                | PathKind.RegularFile ->
                    match PathKind.resolve full with
                    | Some file -> openBeside path file
                    | None -> openDirectly path full)

    /// Writes all of it, once, and puts it in its place.
    member _.Write(write: Stream -> unit) : Result<unit, LayerSkipError list> =
        WriteFault.guard (WriteFault.ofWriting path) (fun () ->
            match unfinished with
            | None ->
                // Others may have written to it since.
                if stream.CanSeek then
                    stream.Seek(0L, SeekOrigin.End) |> ignore

                write stream
                stream.Flush()
            | Some unfinished ->
                write stream
                stream.Flush true
                stream.Dispose()
                Unfinished.finish unfinished (fun () -> File.Move(unfinished, place, true))
                FolderSync.flush (Path.GetDirectoryName place)

            isWhole <- true
            Ok())

    interface IDisposable with
        member _.Dispose() =
            // What was refused has been told.
            try
                stream.Dispose()
            with e when (WriteFault.why e).IsSome ->
                ()

            match unfinished with
            | Some unfinished when not isWhole -> Unfinished.discard unfinished
            | _ -> ()

/// The one way to write. A file is filled beside its place, flushed, and renamed to it: after a crash, a signal or a
/// power cut there is the old file or the new one, never a part.
[<RequireQualifiedAccess>]
module AtomicFile =
    /// Writes a file, whole or not at all. A path that cannot be written is BadFile, before `write` runs; a disk that
    /// fills up meanwhile is NotWritten, and leaves what was there.
    let write (path: string) (write: Stream -> unit) : Result<unit, LayerSkipError list> =
        AtomicFile.Open path
        |> Result.bind (fun file -> using file (fun file -> file.Write write))

    /// `write` of what is in memory.
    let writeBytes (path: string) (bytes: byte[]) : Result<unit, LayerSkipError list> =
        write path (fun file -> file.Write bytes)

    /// Whether a file can be written, before any work is done.
    let check (path: string) : Result<unit, LayerSkipError list> =
        AtomicFile.Open path |> Result.map (fun file -> (file :> IDisposable).Dispose())

    let private isEmpty (folder: string) = Seq.isEmpty (Directory.EnumerateFileSystemEntries folder)

    let private placeOf (path: string) =
        let full = Path.GetFullPath path |> Path.TrimEndingDirectorySeparator
        PathKind.resolve full |> Option.defaultValue full

    /// What was made beside a folder takes its place.
    let private settle (made: string) (place: string) =
        let old = Unfinished.beside place

        Unfinished.finish made (fun () ->
            if Directory.Exists place then
                Unfinished.start old (fun () -> Directory.Move(place, old))

            Directory.Move(made, place))

        FolderSync.flush (Path.GetDirectoryName place)

        if Directory.Exists old then
            Unfinished.discard old

    /// What was made inside an empty folder moves up: the folder may be a mount, or somebody's current one.
    let private empty (made: string) (place: string) =
        Unfinished.finish made (fun () ->
            for entry in DirectoryInfo(made).GetFileSystemInfos() do
                match entry with
                | :? DirectoryInfo as folder -> folder.MoveTo(Path.Combine(place, folder.Name))
                | file -> File.Move(file.FullName, Path.Combine(place, file.Name))

            Directory.Delete made)

    let private unfinishedFolder (place: string) (isInside: bool) =
        Unfinished.beside (
            if isInside then
                Path.Combine(place, Path.GetFileName place)
            else
                place
        )

    /// Makes a folder where none is.
    let makeFolder (path: string) : Result<unit, LayerSkipError list> =
        WriteFault.guard (WriteFault.ofOpening path) (fun () ->
            Directory.CreateDirectory path |> ignore
            Ok())

    /// A fault of what is under way, by the name that it would have had.
    let private inPlace (made: string) (path: string) (fault: LayerSkipError) : LayerSkipError =
        match fault with
        | LayerSkipError.NotWritten(file, why) when file.StartsWith(made, StringComparison.Ordinal) ->
            LayerSkipError.NotWritten(Path.Combine(path, Path.GetRelativePath(made, file)), why)
        | fault -> fault

    /// Fills a folder, whole or not at all; an older one of the name goes. A symbolic link stays.
    let writeFolder
        (path: string)
        (fill: string -> Result<'T, LayerSkipError list>)
        : Result<'T, LayerSkipError list> =
        WriteFault.guard (WriteFault.ofOpening path) (fun () ->
            let place = placeOf path
            let isThereAndEmpty = Directory.Exists place && isEmpty place
            let made = unfinishedFolder place isThereAndEmpty

            try
                Unfinished.start made (fun () -> Directory.CreateDirectory made |> ignore)

                fill made
                |> Result.mapError (List.map (inPlace made path))
                |> Result.map (fun filled ->
                    (if isThereAndEmpty then empty else settle) made place
                    filled)
            finally
                if Directory.Exists made then
                    Unfinished.discard made)

    /// Whether a folder can be made, or filled, before any work is done. Makes a file in it, or beside its place, and
    /// deletes it.
    let checkFolder (path: string) : Result<unit, LayerSkipError list> =
        WriteFault.guard (WriteFault.ofOpening path) (fun () ->
            if String.IsNullOrWhiteSpace path then
                Error [ WriteFault.refused path "it is no name" ]
            else
                let place = placeOf path
                let trial = unfinishedFolder place (Directory.Exists place)

                match PathKind.find place with
                | PathKind.RegularFile -> Error [ WriteFault.refused path "it is a file" ]
                | PathKind.Special -> Error [ WriteFault.refused path "it is a device or a FIFO" ]
                | PathKind.Nothing
                | PathKind.Folder ->
                    Unfinished.start trial (fun () -> using (File.Create trial) ignore)
                    Unfinished.discard trial
                    Ok())

    /// Deletes all that is unfinished, for good: for who is about to end the process.
    let discardAll () : unit = Unfinished.discardAll ()
