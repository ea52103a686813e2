module LayerSkip.Tests.HubServer

open System
open System.Collections.Concurrent
open System.IO
open System.Net
open System.Net.Sockets
open System.Security.Cryptography
open System.Text
open System.Threading

/// What a client asked for.
type Asked = {
    Method: string
    Path: string
    /// The first byte of a Range.
    Start: int64 option
    /// The whole of an Authorization.
    Token: string option
}

/// What it gets, byte for byte.
type Reply = {
    Status: int
    Headers: (string * string) list
    Body: byte[]
    /// Content-Length, where it is not the body's.
    Told: int option
    /// How many of the body's bytes go out before the line breaks.
    Cut: int option
    /// Before the body.
    Pause: TimeSpan
}

let reply status headers body = {
    Status = status
    Headers = headers
    Body = body
    Told = None
    Cut = None
    Pause = TimeSpan.Zero
}

/// A server on the loopback interface that answers as it is told to, each request on a connection of its own.
[<Sealed>]
type HubServer(answer: Asked -> Reply) as this =
    let listener = new TcpListener(IPAddress.Loopback, 0)
    let asked = ConcurrentQueue<Asked>()
    let ending = new CancellationTokenSource()

    let parse (lines: string list) : Asked =
        let first = lines.Head.Split ' '

        let header (name: string) =
            lines.Tail
            |> List.tryPick (fun line ->
                match line.IndexOf ':' with
                | at when at > 0 && line[.. at - 1].Equals(name, StringComparison.OrdinalIgnoreCase) ->
                    Some(line[at + 1 ..].Trim())
                | _ -> None)

        {
            Method = first[0]
            Path = Uri.UnescapeDataString first[1]
            Start =
                header "Range"
                |> Option.map (fun range -> int64 (range.Replace("bytes=", "").TrimEnd '-'))
            Token = header "Authorization"
        }

    let write (stream: Stream) (request: Asked) (it: Reply) =
        let head = StringBuilder()
        let line (text: string) = head.Append(text).Append("\r\n") |> ignore
        line $"HTTP/1.1 {it.Status} x"
        line $"Content-Length: {it.Told |> Option.defaultValue it.Body.Length}"
        line "Connection: close"

        for name, value in it.Headers do
            line $"{name}: {value}"

        line ""
        stream.Write(Encoding.ASCII.GetBytes(head.ToString()))

        if request.Method <> "HEAD" then
            ending.Token.WaitHandle.WaitOne it.Pause |> ignore
            stream.Write(ReadOnlySpan it.Body[.. (defaultArg it.Cut it.Body.Length) - 1])

        stream.Flush()

    let serve (client: TcpClient) =
        use client = client
        use stream = client.GetStream()
        use reader = new StreamReader(stream, Encoding.ASCII, false, 1024, true)

        let lines =
            Seq.initInfinite (fun _ -> reader.ReadLine())
            |> Seq.takeWhile (String.IsNullOrEmpty >> not)
            |> List.ofSeq

        if not lines.IsEmpty then
            let request = parse lines
            asked.Enqueue request
            write stream request (answer request)

    let listen () =
        try
            while true do
                let client = listener.AcceptTcpClient()

                Thread(
                    (fun () ->
                        try
                            serve client
                        with
                        // The client has gone.
                        | :? IOException
                        | :? ObjectDisposedException -> ()),
                    IsBackground = true
                )
                    .Start()
        with
        // It has been stopped.
        | :? SocketException
        | :? InvalidOperationException -> ()

    do
        listener.Start()
        Thread(listen, IsBackground = true).Start()
        ignore this

    member _.Url = $"http://127.0.0.1:{(listener.LocalEndpoint :?> IPEndPoint).Port}"
    /// All requests until now, in their order.
    member _.Asked = List.ofSeq asked

    interface IDisposable with
        member _.Dispose() =
            ending.Cancel()
            listener.Stop()

let private hex (bytes: byte[]) = Convert.ToHexStringLower bytes
let sha256 (bytes: byte[]) = hex (SHA256.HashData bytes)

let gitSha1 (bytes: byte[]) =
    hex (SHA1.HashData(Array.append (Encoding.ASCII.GetBytes $"blob {bytes.Length}\000") bytes))

let commit = String('c', 40)

/// A hub with one model, org/name, as the real one serves it: small files itself, large ones by a redirect to another host.
/// `misbehave` makes of each good reply what the client gets; those of the other host too.
[<Sealed>]
type FakeHub(files: (string * byte[]) list, misbehave: Asked -> Reply -> Reply) =
    let isLarge (path: string) = path.EndsWith ".safetensors" || path.EndsWith ".gguf"

    let etagOf (path: string, bytes: byte[]) = if isLarge path then sha256 bytes else gitSha1 bytes

    let part (request: Asked) headers (bytes: byte[]) =
        match request.Start with
        | Some start when start >= int64 bytes.Length -> reply 416 headers [||]
        | Some start ->
            reply
                206
                (("Content-Range", $"bytes {start}-{bytes.Length - 1}/{bytes.Length}") :: headers)
                bytes[int start ..]
        | None -> reply 200 headers bytes

    let store =
        new HubServer(fun request ->
            let found = files |> List.tryFind (fun file -> request.Path = "/" + etagOf file)

            match found with
            | Some(_, bytes) -> part request [ "ETag", "\"of-the-store\"" ] bytes
            | None -> reply 404 [] [||]
            |> misbehave request)

    let listing () =
        let siblings =
            files |> List.map (fun (path, _) -> $"{{\"rfilename\": \"{path}\"}}") |> String.concat ","

        Encoding.UTF8.GetBytes $"{{\"sha\": \"{commit}\", \"siblings\": [{siblings}]}}"

    let hub =
        new HubServer(fun request ->
            let resolve = $"/org/name/resolve/{commit}/"

            if request.Path = "/api/models/org/name/revision/main" then
                reply 200 [] (listing ())
            elif request.Path.StartsWith "/api/" then
                reply 404 [ "X-Error-Code", "RevisionNotFound" ] [||]
            else
                match files |> List.tryFind (fun (path, _) -> request.Path = resolve + path) with
                | None -> reply 404 [ "X-Error-Code", "EntryNotFound" ] [||]
                | Some(path, bytes) when isLarge path ->
                    let etag = etagOf (path, bytes)

                    reply 302 [
                        "X-Repo-Commit", commit
                        "X-Linked-Etag", $"\"{etag}\""
                        "X-Linked-Size", string bytes.Length
                        "Location", $"{store.Url}/{etag}"
                    ] [||]
                | Some(path, bytes) ->
                    part request [ "X-Repo-Commit", commit; "ETag", $"\"{etagOf (path, bytes)}\"" ] bytes
            |> misbehave request)

    new(files) = new FakeHub(files, (fun _ reply -> reply))

    /// Where its own pages are, and where its large files are.
    member _.Hub = hub
    member _.Store = store
    member _.Files = files
    member _.EtagOf(path: string) = files |> List.find (fst >> (=) path) |> etagOf

    /// The folder of the model in a cache.
    member _.FolderIn(cache: string) = Path.Combine(cache, "models--org--name")

    interface IDisposable with
        member _.Dispose() =
            (hub :> IDisposable).Dispose()
            (store :> IDisposable).Dispose()
