module LayerSkip.Server.Tests.ServerSupport

open System
open System.IO
open System.Net.Http
open System.Net.Http.Headers
open System.Net.Sockets
open System.Text
open System.Text.Json
open System.Threading
open System.Threading.Tasks
open Expecto
open LayerSkip
open LayerSkip.Server
open LayerSkip.Tests.Support

/// Fails where a task does not end in time, rather than hang.
let wait (task: Task<'T>) : 'T =
    if not (task.Wait(TimeSpan.FromMinutes 2.0)) then
        failtest "it takes longer than two minutes"

    task.Result

let waitUnit (task: Task) : unit =
    if not (task.Wait(TimeSpan.FromMinutes 2.0)) then
        failtest "it takes longer than two minutes"

/// The project's own model.
let checkpoint =
    lazy
        (Checkpoint.load (Path.Combine(root, "models", "stories-10m")) None Device.Cpu
         |> Check.getOrRaise)

let options = { ServerOptions.defaults with Port = 0 }

/// A server over a model while `body` runs, and a client of it.
let withServerOf
    (checkpoint: Checkpoint)
    (options: ServerOptions)
    (body: RunningServer -> HttpClient -> 'T)
    : 'T =
    let server = Server.start options checkpoint |> wait |> Check.getOrRaise

    try
        use client = new HttpClient(BaseAddress = Uri server.Address, Timeout = TimeSpan.FromMinutes 2.0)
        body server client
    finally
        waitUnit (server.StopAsync())

let withServer (options: ServerOptions) body = withServerOf (checkpoint.Force()) options body

/// One for all tests that leave it as it was; it ends with the process.
let shared =
    lazy
        (let server = Server.start options (checkpoint.Force()) |> wait |> Check.getOrRaise
         server, new HttpClient(BaseAddress = Uri server.Address, Timeout = TimeSpan.FromMinutes 2.0))

let client () = snd (shared.Force())

/// An answer, read to its end.
type Answer = {
    Status: int
    Text: string
    Headers: HttpResponseHeaders
    Type: string
} with

    member this.Json: JsonElement =
        try
            JsonDocument.Parse(this.Text).RootElement
        with _ ->
            failtest $"{this.Status}: no JSON: {this.Text}"

let read (response: HttpResponseMessage) : Answer =
    use response = response

    {
        Status = int response.StatusCode
        Text = wait (response.Content.ReadAsStringAsync())
        Headers = response.Headers
        Type = string response.Content.Headers.ContentType
    }

let jsonBody (body: string) : HttpContent = new StringContent(body, Encoding.UTF8, "application/json")

let postTo (client: HttpClient) (path: string) (body: string) : Answer =
    wait (client.PostAsync(path, jsonBody body)) |> read

let post path body = postTo (client ()) path body
let get (path: string) : Answer = wait ((client ()).GetAsync path) |> read

/// A field inside others, an item where it is a number: "choices.0.text".
let at (path: string) (json: JsonElement) : JsonElement =
    path.Split '.'
    |> Array.fold
        (fun (json: JsonElement) (part: string) ->
            match Int32.TryParse part with
            | true, place -> json[place]
            | _ -> json.GetProperty part)
        json

let text (path: string) json : string = (at path json).GetString()
let number (path: string) json : int = (at path json).GetInt32()

/// A good answer's JSON.
let good (answer: Answer) : JsonElement =
    Expect.equal answer.Status 200 answer.Text
    answer.Json

/// The folder of the checkout and of what lies beside it; the checkout itself where that is the whole disk, whose name is in every address.
let private surroundings =
    match Path.GetDirectoryName root with
    | parent when parent = Path.GetPathRoot parent -> root
    | parent -> parent + string Path.DirectorySeparatorChar

/// An error of OpenAI's form with this status, which says nothing of the machine; its message.
let refusal (status: int) (answer: Answer) : JsonElement =
    Expect.equal answer.Status status answer.Text
    let error = at "error" answer.Json
    let message = text "message" error
    Expect.isNonEmpty message "a message"
    Expect.isNonEmpty (text "type" error) "a type"
    for name in [ "param"; "code" ] do
        let kind = (at name error).ValueKind
        Expect.isTrue (kind = JsonValueKind.String || kind = JsonValueKind.Null) name
    Expect.isFalse
        (answer.Text.Contains root
         || answer.Text.Contains surroundings
         || answer.Text.Contains "   at ")
        answer.Text
    error

/// What greedy decoding writes after a prompt, without a server.
let offline (maxNewTokens: int) (prompt: string) : Completion =
    let checkpoint = checkpoint.Force()
    let ids = Tokenizer.encode checkpoint.Tokenizer.Value prompt

    Generation.complete
        checkpoint.Weights
        checkpoint.Tokenizer
        {
            GenerationOptions.greedy Strategy.Autoregressive maxNewTokens with
                StopIds = checkpoint.StopIds
        }
        ids
    |> Check.getOrRaise

/// The data of server-sent events as they come, without the last, "[DONE]", which must be there unless an error ends them.
let readEvents (response: HttpResponseMessage) (cancelled: CancellationToken) : Task<JsonElement list> =
    task {
        use! stream = response.Content.ReadAsStreamAsync cancelled
        use reader = new StreamReader(stream, Encoding.UTF8)
        let events = ResizeArray<JsonElement>()
        let mutable isDone = false
        let mutable isOpen = true

        while isOpen do
            match! reader.ReadLineAsync cancelled with
            | null -> isOpen <- false
            | "" -> ()
            | "data: [DONE]" -> isDone <- true
            | line ->
                Expect.stringStarts line "data: " "an event"
                Expect.isFalse isDone "nothing after the last event"
                events.Add(JsonDocument.Parse(line.Substring 6).RootElement)

        let hasError = events |> Seq.exists (fun event -> fst (event.TryGetProperty "error"))
        Expect.isTrue (isDone || hasError) "the last event is there"
        return List.ofSeq events
    }

/// Begins a streamed request; what it answers comes as it is written.
let startStream (client: HttpClient) (path: string) (body: string) (cancelled: CancellationToken) =
    let request = new HttpRequestMessage(HttpMethod.Post, path, Content = jsonBody body)
    client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancelled)

/// The events of a streamed request.
let streamFrom (client: HttpClient) (path: string) (body: string) : Task<JsonElement list> =
    task {
        use! response = startStream client path body CancellationToken.None

        if not response.IsSuccessStatusCode then
            let! text = response.Content.ReadAsStringAsync()
            failtest $"{response.StatusCode}: {text}"

        Expect.equal response.Content.Headers.ContentType.MediaType "text/event-stream" "type"
        return! readEvents response CancellationToken.None
    }

let stream path body = streamFrom (client ()) path body |> wait

/// The text of a completion's chunks.
let textOf (events: JsonElement list) : string =
    events
    |> Seq.collect (fun event -> (at "choices" event).EnumerateArray())
    |> Seq.map (text "text")
    |> String.Concat

/// A JSON string.
let quoted (text: string) = JsonSerializer.Serialize text

/// Looks until something holds, at most some seconds.
let eventually (what: string) (holds: unit -> bool) : unit =
    if not (SpinWait.SpinUntil(holds, TimeSpan.FromSeconds 20.0)) then
        failtest $"never: {what}"

/// Writes bytes with pauses [ms] between on a connection of its own; what comes back until it closes.
let raw (address: string) (parts: (string * int) list) (isHalfClosed: bool) : string =
    let place = Uri address
    use connection = new TcpClient(place.Host, place.Port)
    connection.ReceiveTimeout <- 20_000
    use stream = connection.GetStream()
    let answer = StringBuilder()

    try
        for part, pause in parts do
            stream.Write(Encoding.Latin1.GetBytes part)
            Thread.Sleep pause

        if isHalfClosed then
            connection.Client.Shutdown SocketShutdown.Send

        let buffer = Array.zeroCreate<byte> 4096
        let mutable count = stream.Read(buffer, 0, buffer.Length)

        while count > 0 do
            answer.Append(Encoding.UTF8.GetString(buffer, 0, count)) |> ignore
            count <- stream.Read(buffer, 0, buffer.Length)
    // Whoever closes before all has been read of what was sent breaks the connection off.
    with :? IOException ->
        ()

    answer.ToString()

/// The head of a request to complete something, with more of it.
let rawHead (path: string) (more: string) =
    $"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n{more}\r\n\r\n"
