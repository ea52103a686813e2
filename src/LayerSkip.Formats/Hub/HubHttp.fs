namespace LayerSkip

open System
open System.IO
open System.Net
open System.Net.Http
open System.Net.Http.Headers
open System.Threading
open System.Threading.Tasks

/// Why something did not come from a hub.
[<RequireQualifiedAccess>]
type internal HubFault =
    /// Its answer, to the next try too: the HTTP status, and its own code and words, which may be empty.
    | Refused of status: int * code: string * words: string
    /// It may come later: the hub is not reached, busy, or the line was cut; and how long it asks to be left alone.
    | Passing of why: string * wait: TimeSpan option
    /// It is there, and no model that can be read here.
    | Unfit of why: string
    /// What comes is not what was promised.
    | Wrong of why: string
    /// It cannot be kept here.
    | Here of LayerSkipError list

/// An answer whose body has not been read, with what the hub says of the file, on the way to it too.
[<Sealed>]
type internal HubAnswer
    (response: HttpResponseMessage, commit: string option, etag: string option, size: int64 option) =
    member _.Response = response
    /// Of the repository.
    member _.Commit = commit
    /// Without quotes; of a large file the SHA-256 of its bytes, of a small one git's SHA-1.
    member _.Etag = etag
    /// Of the whole file, in bytes.
    member _.Size = size

    interface IDisposable with
        member _.Dispose() = response.Dispose()

/// Requests to a hub. Redirects are followed here, so that a token goes to the hub itself and nowhere else.
[<Sealed>]
type internal HubHttp(options: HubOptions) =
    static let mostHops = 10

    let client =
        new HttpClient(
            new SocketsHttpHandler(
                AllowAutoRedirect = false,
                UseCookies = false,
                AutomaticDecompression = DecompressionMethods.None,
                ConnectTimeout = options.Timeout
            ),
            Timeout = Timeout.InfiniteTimeSpan
        )

    let endpoint = Uri options.Endpoint
    let isHub (uri: Uri) =
        (uri.Scheme, uri.IdnHost, uri.Port) = (endpoint.Scheme, endpoint.IdnHost, endpoint.Port)

    let requestTo (method: HttpMethod) (uri: Uri) (start: int64) =
        let request = new HttpRequestMessage(method, uri)
        request.Headers.UserAgent.Add(ProductInfoHeaderValue("layerskip", "0.1"))
        // A compressed body has neither the length nor the positions of the file.
        request.Headers.AcceptEncoding.Add(StringWithQualityHeaderValue "identity")

        if start > 0L then
            request.Headers.Range <- RangeHeaderValue(start, Nullable())

        match options.Token with
        | Some token when isHub uri ->
            request.Headers.Authorization <- AuthenticationHeaderValue("Bearer", token)
        | _ -> ()

        request

    let header (name: string) (response: HttpResponseMessage) : string option =
        match response.Headers.TryGetValues name with
        | true, values -> Seq.tryHead values
        | _ -> None

    let unquoted (etag: string) =
        let strong = if etag.StartsWith "W/" then etag[2..] else etag
        strong.Trim '"'

    let linkedEtag = header "X-Linked-Etag" >> Option.map unquoted

    let linkedSize response =
        header "X-Linked-Size" response
        |> Option.bind (fun text ->
            match Int64.TryParse text with
            | true, size when size >= 0L -> Some size
            | _ -> None)

    let isRedirect (response: HttpResponseMessage) =
        List.contains (int response.StatusCode) [ 301; 302; 303; 307; 308 ]
        && not (isNull response.Headers.Location)

    let waitOf (response: HttpResponseMessage) : TimeSpan option =
        match response.Headers.RetryAfter with
        | null -> None
        | after when after.Delta.HasValue -> Some after.Delta.Value
        | after when after.Date.HasValue -> Some(max TimeSpan.Zero (after.Date.Value - DateTimeOffset.UtcNow))
        | _ -> None

    let faultOf (uri: Uri) (response: HttpResponseMessage) : HubFault =
        let status = int response.StatusCode

        if status = 408 || status = 429 || status >= 500 then
            HubFault.Passing($"{uri.Host} answers {status}", waitOf response)
        else
            let text name = header name response |> Option.defaultValue ""
            HubFault.Refused(status, text "X-Error-Code", text "X-Error-Message")

    /// As who runs it should read it: the innermost reason is the one that names something.
    let rec reason (e: exn) =
        match e.InnerException with
        | null -> e.Message.ReplaceLineEndings(" ").TrimEnd '.'
        | inner -> reason inner

    /// The next answer's headers; the fault of none.
    let answer (request: HttpRequestMessage) (cancel: CancellationToken) =
        task {
            use patience = CancellationTokenSource.CreateLinkedTokenSource cancel
            patience.CancelAfter options.Timeout
            let host = request.RequestUri.Host

            try
                let! response =
                    client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, patience.Token)
                return Ok response
            with
            | :? OperationCanceledException when not cancel.IsCancellationRequested ->
                let seconds = int options.Timeout.TotalSeconds
                return Error(HubFault.Passing($"{host} does not answer within {seconds} s", None))
            | :? HttpRequestException
            | :? IOException as e ->
                return Error(HubFault.Passing($"{host} cannot be reached: {reason e}", None))
        }

    /// Follows redirects until `isEnough`, or to their end.
    let follow (method: HttpMethod) (uri: Uri) (start: int64) (isEnough: HttpResponseMessage -> bool) cancel =
        task {
            let mutable place = uri
            let mutable commit, etag, size = None, None, None
            let mutable hops = 0
            let mutable result = None

            while result.IsNone do
                use request = requestTo method place start

                match! answer request cancel with
                | Error fault -> result <- Some(Error fault)
                | Ok response ->
                    commit <- commit |> Option.orElse (header "X-Repo-Commit" response)
                    etag <- etag |> Option.orElse (linkedEtag response)
                    size <- size |> Option.orElse (linkedSize response)

                    if isRedirect response && not (isEnough response) then
                        let next = Uri(place, response.Headers.Location)
                        response.Dispose()
                        hops <- hops + 1

                        if hops > mostHops then
                            result <- Some(Error(HubFault.Wrong $"{uri.Host} redirects in a circle"))
                        elif
                            place.Scheme = "https" && next.Scheme <> "https"
                            || not (next.Scheme.StartsWith "http")
                        then
                            result <-
                                Some(
                                    Error(
                                        HubFault.Wrong $"{place.Host} redirects to where nothing is encrypted"
                                    )
                                )
                        else
                            place <- next
                    elif response.IsSuccessStatusCode || isRedirect response then
                        // Who is not the hub has ETags of its own kind.
                        let own =
                            match response.Headers.ETag with
                            | null -> None
                            | etag when isHub place && response.IsSuccessStatusCode -> Some(unquoted etag.Tag)
                            | _ -> None

                        let length =
                            if response.StatusCode = HttpStatusCode.OK then
                                Option.ofNullable response.Content.Headers.ContentLength
                            else
                                None

                        result <-
                            Some(
                                Ok(
                                    new HubAnswer(
                                        response,
                                        commit,
                                        Option.orElse own etag,
                                        Option.orElse length size
                                    )
                                )
                            )
                    else
                        let fault = faultOf place response
                        response.Dispose()
                        result <- Some(Error fault)

            return result.Value
        }

    /// What the hub says of a file, without its bytes.
    member _.Head(uri: Uri, cancel: CancellationToken) : Task<Result<HubAnswer, HubFault>> =
        follow HttpMethod.Head uri 0L (linkedEtag >> Option.isSome) cancel

    /// A file's bytes, from one on; whether the server heeds that shows its status.
    member _.Get(uri: Uri, start: int64, cancel: CancellationToken) : Task<Result<HubAnswer, HubFault>> =
        follow HttpMethod.Get uri start (fun _ -> false) cancel

    /// A short text, whole: at most 64 MiB.
    member this.Text(uri: Uri, cancel: CancellationToken) : Task<Result<byte[], HubFault>> =
        task {
            match! this.Get(uri, 0L, cancel) with
            | Error fault -> return Error fault
            | Ok answer ->
                use answer = answer
                use patience = CancellationTokenSource.CreateLinkedTokenSource cancel
                patience.CancelAfter options.Timeout

                try
                    do! answer.Response.Content.LoadIntoBufferAsync(64L <<< 20, patience.Token)
                    let! bytes = answer.Response.Content.ReadAsByteArrayAsync cancel
                    return Ok bytes
                with
                | :? OperationCanceledException when not cancel.IsCancellationRequested ->
                    return Error(HubFault.Passing($"{uri.Host} stops in the middle of an answer", None))
                | :? HttpRequestException
                | :? IOException as e ->
                    return Error(HubFault.Passing($"{uri.Host} breaks off an answer: {reason e}", None))
        }

    interface IDisposable with
        member _.Dispose() = client.Dispose()

[<RequireQualifiedAccess>]
module internal HubRetry =
    // What a command may wait for nothing.
    let private longest = TimeSpan.FromSeconds 60.0

    /// How long to wait before another try, of which there were `before`; None where it is not worth it.
    let wait (options: HubOptions) (before: int) (fault: HubFault) : TimeSpan option =
        match fault with
        | HubFault.Passing(_, asked) when before < options.Retries ->
            let own = options.Backoff * float (1 <<< min before 5)
            Some(defaultArg asked own) |> Option.filter (fun wait -> wait <= longest)
        | _ -> None

    /// Waits, and lets `waits` know for how long and why.
    let pause
        (waits: string -> TimeSpan -> unit)
        (fault: HubFault)
        (delay: TimeSpan)
        (cancel: CancellationToken)
        : Task =
        match fault with
        | HubFault.Passing(why, _) -> waits why delay
        | _ -> ()

        Task.Delay(delay, cancel)

    /// Tries again what may pass.
    let run
        (options: HubOptions)
        (waits: string -> TimeSpan -> unit)
        (cancel: CancellationToken)
        (attempt: unit -> Task<Result<'T, HubFault>>)
        =
        task {
            let mutable before = 0
            let mutable result = None

            while result.IsNone do
                let! found = attempt ()

                match found with
                | Error fault ->
                    match wait options before fault with
                    | Some delay ->
                        before <- before + 1
                        do! pause waits fault delay cancel
                    | None -> result <- Some found
                | Ok _ -> result <- Some found

            return result.Value
        }
