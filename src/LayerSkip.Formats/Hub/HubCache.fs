namespace LayerSkip

open System
open System.IO
open System.Text
open System.Threading
open System.Threading.Tasks

/// A repository's folder in the cache that Python's huggingface_hub keeps too
/// (https://huggingface.co/docs/hub/local-cache): `blobs` has files by their ETags, `snapshots` a folder of links to them for
/// each commit, `refs` the commit of each branch that was asked for.
[<RequireQualifiedAccess>]
module internal HubCache =
    let private folderName (repository: string) = "models--" + repository.Replace("/", "--")

    /// Of a repository.
    let folder (options: HubOptions) (repository: string) : string =
        Path.Combine(options.Cache, folderName repository)

    /// Where the links to a commit's files are.
    let snapshot (options: HubOptions) (repository: string) (commit: string) : string =
        Path.Combine(folder options repository, "snapshots", commit)

    /// Where a file's bytes are, once all are there.
    let blob (options: HubOptions) (repository: string) (etag: string) : string =
        Path.Combine(folder options repository, "blobs", etag)

    /// Where they are until then.
    let incomplete (blob: string) : string = blob + ".incomplete"

    /// Deletes what an interrupted download left of a blob that is here since.
    let clear (blob: string) : unit =
        try
            File.Delete(incomplete blob)
        with
        | :? IOException
        | :? UnauthorizedAccessException -> ()

    let private refOf options repository (revision: string) =
        Path.Combine(folder options repository, "refs", revision)

    /// The commit that a revision was when it was last asked for; a commit is itself.
    let commit (options: HubOptions) (name: HubName) : string option =
        if HubName.isCommit name.Revision then
            Some name.Revision
        else
            match SourceFile.tryReadAll (refOf options name.Repository name.Revision) with
            | Ok(Some bytes) -> Some((Encoding.UTF8.GetString bytes).Trim()) |> Option.filter HubName.isCommit
            | Ok None
            | Error _ -> None

    /// Keeps the commit of a revision, where the cache can be written: without it a model is found by its commit.
    let setCommit (options: HubOptions) (name: HubName) (found: string) : unit =
        if commit options name <> Some found then
            let path = refOf options name.Repository name.Revision

            AtomicFile.makeFolder (Path.GetDirectoryName path)
            |> Result.bind (fun () -> AtomicFile.writeBytes path (Encoding.ASCII.GetBytes found))
            |> ignore

    /// The bytes of a file, links followed; None where there is none.
    let length (path: string) : int64 option =
        try
            use handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite)
            Some(RandomAccess.GetLength handle)
        with
        | :? IOException
        | :? UnauthorizedAccessException -> None

    /// The files of a snapshot whose bytes are here, as paths with "/".
    let files (snapshot: string) : string list =
        try
            [
                for path in Directory.EnumerateFiles(snapshot, "*", SearchOption.AllDirectories) do
                    // A link may lead to a blob that was deleted.
                    if (length path).IsSome then
                        Path.GetRelativePath(snapshot, path).Replace(Path.DirectorySeparatorChar, '/')
            ]
        with
        | :? IOException
        | :? UnauthorizedAccessException -> []

    /// Puts a file into a snapshot: a link to its blob, relative, so that the cache can be moved; a copy where the file
    /// system has no links.
    let link (blob: string) (path: string) : unit =
        let made = Unfinished.beside path
        let inFolder = Path.GetDirectoryName path
        Directory.CreateDirectory inFolder |> ignore

        Unfinished.start made (fun () ->
            try
                File.CreateSymbolicLink(made, Path.GetRelativePath(inFolder, blob)) |> ignore
            with
            | :? IOException
            | :? UnauthorizedAccessException -> File.Copy(blob, made))

        Unfinished.finish made (fun () -> File.Move(made, path, true))

    // As Linux, macOS and Windows say that somebody holds it.
    let private held = [ 11; 35; 0x80070020 ]

    let private tryLock (path: string) : FileStream option =
        try
            Some(new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None))
        with :? IOException as e when List.contains e.HResult held ->
            None

    /// Waits until nobody else brings a file, in this process, another or Python's (flock); `onWait` is called once where somebody
    /// does.
    let lock
        (options: HubOptions)
        (repository: string)
        (etag: string)
        (onWait: unit -> unit)
        (cancel: CancellationToken)
        =
        task {
            let folder = Path.Combine(options.Cache, ".locks", folderName repository)
            Directory.CreateDirectory folder |> ignore
            let path = Path.Combine(folder, etag + ".lock")
            let mutable taken = tryLock path

            if taken.IsNone then
                onWait ()

            while taken.IsNone do
                do! Task.Delay(100, cancel)
                taken <- tryLock path

            return taken.Value :> IDisposable
        }

    /// The fault of a disk that has no room for so many bytes more.
    let checkRoom (options: HubOptions) (bytes: int64) : LayerSkipError list =
        let rec existing (path: string) =
            if Directory.Exists path then
                path
            else
                existing (Path.GetDirectoryName path)

        let gigabytes (bytes: int64) =
            (float bytes / 1e9).ToString("0.00", Globalization.CultureInfo.InvariantCulture)

        try
            let free = DriveInfo(existing options.Cache).AvailableFreeSpace

            Check.that
                (bytes <= free)
                (LayerSkipError.NotWritten(
                    options.Cache,
                    $"the model needs {gigabytes bytes} GB more, {gigabytes free} GB are free (HF_HOME names the cache)"
                ))
        with
        // What tells nothing of its room may have it.
        | :? IOException
        | :? UnauthorizedAccessException
        | :? ArgumentException -> []
