namespace LayerSkip.Cli

open System
open System.IO
open System.Threading
open LayerSkip

/// Unfinished files beside their places, which must not stay when a signal ends the process.
[<RequireQualifiedAccess>]
module internal Unfinished =
    let private gate = obj ()
    let mutable private files: string list = []

    /// Does something to a file while no signal can: the file is unfinished after it, or is not.
    let change (path: string) (isUnfinished: bool) (work: unit -> unit) : unit =
        lock gate (fun () ->
            files <- List.filter ((<>) path) files

            if isUnfinished then
                files <- path :: files

            work ())

    /// Deletes them all, for good: whoever would write one after it waits for ever. For the end of the process.
    let deleteForGood () : unit =
        if Monitor.TryEnter(gate, TimeSpan.FromSeconds 1.0) then
            for file in files do
                try
                    File.Delete file
                with
                | :? IOException
                | :? UnauthorizedAccessException -> ()

/// Where an output goes.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type internal OutputTarget =
    | Nowhere
    /// Into something that is there.
    | Direct of path: string * FileStream
    /// Into an unfinished file, moved to `file` when it is whole.
    | Beside of path: string * file: string * unfinished: string

/// A file that is written whole or not at all, and found unwritable before any work is done. A symbolic link stays, and
/// what it names is written; a device or a FIFO is written into, not replaced; an old file's mode is the new one's.
/// Where none is asked for, writing does nothing.
[<Sealed>]
type OutputFile private (target: OutputTarget) =
    let mutable kept = false

    static let fault path why =
        let message = $"cannot be written: {why}; name another file with --output"
        raise (LayerSkipException [ LayerSkipError.BadFile(path, message) ])

    static let guarded path fault work =
        try
            work ()
        with
        | :? IOException
        | :? UnauthorizedAccessException as e -> fault path ((e.Message.Split(" : ")[0]).TrimEnd '.')

    /// Where the links end. An open descriptor's end at a name that is none, or at a file that is not ours to replace.
    static let rec resolve (path: string) depth : string option =
        if
            path.StartsWith("/proc/", StringComparison.Ordinal)
            || path.StartsWith("/dev/fd/", StringComparison.Ordinal)
        then
            None
        else
            match FileInfo(path).LinkTarget with
            | null -> Some path
            | _ when depth = 40 -> raise (IOException "its links lead in a circle")
            | next -> resolve (Path.Combine(Path.GetDirectoryName path, next)) (depth + 1)

    static let openDirectly path =
        OutputTarget.Direct(
            path,
            new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.ReadWrite)
        )

    static let openBeside (path: string) (file: string) =
        let folder = Path.GetDirectoryName file

        if not (Directory.Exists folder) then
            fault path $"there is no folder {folder}"

        if File.Exists file && File.GetAttributes(file).HasFlag FileAttributes.ReadOnly then
            fault path "it is read-only"

        let unfinished = $"{file}.{Environment.ProcessId}.part"

        Unfinished.change unfinished true (fun () ->
            using (File.Create unfinished) ignore

            if File.Exists file && not (OperatingSystem.IsWindows()) then
                File.SetUnixFileMode(unfinished, File.GetUnixFileMode file))

        OutputTarget.Beside(path, file, unfinished)

    static let create (path: string) =
        if path = "" then
            raise (UsageException "--output is empty; name the file to write")

        guarded path fault (fun () ->
            let full = Path.GetFullPath path

            match Posix.kind full with
            | PathKind.Folder -> fault path "it is a folder"
            | PathKind.Special -> openDirectly full
            | PathKind.Nothing
            | PathKind.RegularFile ->
                match resolve full 0 with
                | Some file -> openBeside path file
                | None -> openDirectly full)

    static member Open(path: string option) : OutputFile =
        new OutputFile(path |> Option.map create |> Option.defaultValue OutputTarget.Nowhere)

    /// The text and a line's end.
    member _.Write(text: string) : unit =
        let fault path why = raise (FailureException $"{path}: cannot be written: {why}")
        let bytes = Text.Encoding.UTF8.GetBytes(text + "\n")

        match target with
        | OutputTarget.Nowhere -> ()
        | OutputTarget.Direct(path, stream) ->
            guarded path fault (fun () ->
                if stream.CanSeek then
                    stream.Seek(0L, SeekOrigin.End) |> ignore

                stream.Write bytes
                stream.Flush())
        | OutputTarget.Beside(path, file, unfinished) ->
            guarded path fault (fun () ->
                Unfinished.change unfinished true (fun () -> File.WriteAllBytes(unfinished, bytes))
                Unfinished.change unfinished false (fun () -> File.Move(unfinished, file, true)))

            kept <- true

    interface IDisposable with
        member _.Dispose() =
            match target with
            | OutputTarget.Beside(_, _, unfinished) when not kept ->
                Unfinished.change unfinished false (fun () -> File.Delete unfinished)
            | OutputTarget.Direct(_, stream) ->
                // What was refused has been told.
                try
                    stream.Dispose()
                with :? IOException ->
                    ()
            | OutputTarget.Beside _
            | OutputTarget.Nowhere -> ()
