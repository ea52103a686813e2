namespace LayerSkip

open System
open System.IO
open System.Net
open System.Security.Cryptography
open System.Text
open System.Threading
open System.Threading.Tasks

/// A file of a commit, as the hub describes it.
type internal HubFile = {
    /// Inside the repository, with "/".
    Path: string
    Uri: Uri
    /// Names the blob; of 64 hexadecimal digits its SHA-256, of 40 git's SHA-1, of others nothing that can be checked.
    Etag: string
    /// In bytes.
    Size: int64
}

/// Bytes on their way into a file, with the hash that its ETag promises.
[<Sealed>]
type internal HubHash(file: HubFile) =
    let hash =
        match file.Etag.Length with
        | _ when not (Seq.forall Char.IsAsciiHexDigitLower file.Etag) -> null
        | 64 -> IncrementalHash.CreateHash HashAlgorithmName.SHA256
        | 40 -> IncrementalHash.CreateHash HashAlgorithmName.SHA1
        | _ -> null

    // git's hash of a file is that of its length and its bytes.
    let start () =
        if not (isNull hash) && file.Etag.Length = 40 then
            hash.AppendData(Encoding.ASCII.GetBytes $"blob {file.Size}\000")

    do start ()

    member _.Add(bytes: ReadOnlySpan<byte>) : unit =
        if not (isNull hash) then
            hash.AppendData bytes

    /// Forgets all bytes.
    member _.Restart() : unit =
        if not (isNull hash) then
            hash.GetHashAndReset() |> ignore
            start ()

    /// Whether the bytes are the file's; forgets them.
    member _.IsRight() : bool =
        if isNull hash then
            true
        else
            let found = Convert.ToHexStringLower(hash.GetHashAndReset())
            start ()
            found = file.Etag

    interface IDisposable with
        member _.Dispose() =
            if not (isNull hash) then
                hash.Dispose()

/// Brings the bytes of one file into `path`, which holds some of them or none. `came` is told how many more bytes are here, fewer
/// where some were of no use, and how many came over the network; `waits` why nothing is asked for, and how long.
[<Sealed>]
type internal HubFetch
    (
        http: HubHttp,
        options: HubOptions,
        file: HubFile,
        path: string,
        came: int64 -> int64 -> unit,
        waits: string -> TimeSpan -> unit,
        cancel: CancellationToken
    ) =

    let buffer = Array.zeroCreate<byte>(1 <<< 18)
    // FileShare.Read: whoever looks at the folder may.
    let stream = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read, 0)

    let hash = new HubHash(file)
    // How many of the first bytes have been hashed.
    let mutable hashed = 0L

    let startAgain () =
        came -stream.Length 0L
        stream.SetLength 0L
        hash.Restart()
        hashed <- 0L

    let add (count: int) =
        stream.Write(buffer, 0, count)
        hash.Add(ReadOnlySpan(buffer, 0, count))
        hashed <- hashed + int64 count

    /// Hashes what was there, once, and stands behind it.
    let catchUp () =
        stream.Seek(hashed, SeekOrigin.Begin) |> ignore

        while hashed < stream.Length do
            let count = stream.Read(buffer, 0, int (min (int64 buffer.Length) (stream.Length - hashed)))
            hash.Add(ReadOnlySpan(buffer, 0, count))
            hashed <- hashed + int64 count
            cancel.ThrowIfCancellationRequested()

    let cut (why: string) =
        Error(
            HubFault.Passing($"{file.Path} was cut short at byte {stream.Length} of {file.Size}: {why}", None)
        )

    /// Adds the body's bytes to the file, as many as come.
    let receive (answer: HubAnswer) =
        task {
            use patience = CancellationTokenSource.CreateLinkedTokenSource cancel
            let mutable result = None

            try
                patience.CancelAfter options.Timeout
                use! body = answer.Response.Content.ReadAsStreamAsync patience.Token

                while result.IsNone do
                    patience.CancelAfter options.Timeout
                    let! count = body.ReadAsync(Memory buffer, patience.Token)

                    if count = 0 && stream.Length < file.Size then
                        result <- Some(cut "the server sends no more")
                    elif count = 0 then
                        result <- Some(Ok())
                    elif stream.Length + int64 count > file.Size then
                        result <-
                            Some(
                                Error(
                                    HubFault.Wrong
                                        $"{file.Path} is longer than the {file.Size} bytes that the hub tells"
                                )
                            )
                    else
                        try
                            add count
                            came (int64 count) (int64 count)
                        with e when (WriteFault.ofWriting path e).IsSome ->
                            result <- Some(Error(HubFault.Here (WriteFault.ofWriting path e).Value))
            with
            | :? OperationCanceledException when not cancel.IsCancellationRequested ->
                result <- Some(cut $"nothing came for {int options.Timeout.TotalSeconds} s")
            // What HttpClient makes of a line that breaks.
            | :? IOException as e -> result <- Some(cut (e.Message.TrimEnd '.'))
            | :? Http.HttpRequestException as e -> result <- Some(cut (e.Message.TrimEnd '.'))

            return result.Value
        }

    /// One request for what is not here yet.
    let request () =
        task {
            catchUp ()
            let start = stream.Length

            match! http.Get(file.Uri, start, cancel) with
            | Error(HubFault.Refused(416, _, _)) when start > 0L ->
                startAgain ()
                return
                    Error(
                        HubFault.Wrong
                            $"{file.Path} ends at byte {start} on the server, and the hub tells {file.Size}"
                    )
            | Error fault -> return Error fault
            | Ok answer ->
                use answer = answer
                let content = answer.Response.Content.Headers
                let isPart = answer.Response.StatusCode = HttpStatusCode.PartialContent

                if answer.Etag |> Option.exists (fun etag -> etag <> file.Etag) then
                    return Error(HubFault.Wrong $"{file.Path} changes on the hub while it is downloaded")
                elif
                    isPart && (isNull content.ContentRange || content.ContentRange.From <> Nullable start)
                then
                    startAgain ()
                    return
                        Error(
                            HubFault.Wrong $"the server sends another part of {file.Path} than was asked for"
                        )
                else
                    // A server that knows no ranges sends all of it.
                    if not isPart && start > 0L then
                        startAgain ()

                    return! receive answer
        }

    /// Until all bytes are here, and right. What brought something is tried again as often as it takes; what began anew, twice.
    member _.Run() : Task<Result<unit, HubFault>> =
        task {
            let mutable barren, anew = 0, 0
            let mutable result = None
            came stream.Length 0L

            if stream.Length > file.Size then
                startAgain ()

            while result.IsNone do
                let before = stream.Length
                let! received =
                    if before = file.Size then
                        Task.FromResult(Ok())
                    else
                        request ()

                match received with
                | Ok() ->
                    catchUp ()

                    if hash.IsRight() then
                        stream.Flush true
                        result <- Some(Ok())
                    else
                        startAgain ()
                        anew <- anew + 1

                        if anew > 1 then
                            result <-
                                Some(
                                    Error(
                                        HubFault.Wrong
                                            $"{file.Path} came damaged twice: its hash is not the {file.Etag} that the hub tells"
                                    )
                                )
                | Error(HubFault.Passing _ as fault) ->
                    barren <- if stream.Length > before then 0 else barren + 1

                    match HubRetry.wait options barren fault with
                    | Some delay -> do! HubRetry.pause waits fault delay cancel
                    | None -> result <- Some(Error fault)
                | Error(HubFault.Wrong _ as fault) ->
                    anew <- anew + 1

                    if stream.Length > 0L then
                        startAgain ()

                    if anew > 1 then
                        result <- Some(Error fault)
                | Error fault -> result <- Some(Error fault)

            return result.Value
        }

    interface IDisposable with
        member _.Dispose() =
            (hash :> IDisposable).Dispose()
            stream.Dispose()
