namespace LayerSkip.Server

open System
open System.Net
open System.Security.Cryptography
open System.Text
open System.Threading.Tasks
open Microsoft.AspNetCore.Http
open LayerSkip

/// What stands before every endpoint: who may ask, and that whatever goes wrong is answered in OpenAI's form, with nothing of the machine.
[<RequireQualifiedAccess>]
module internal Guard =
    let private hash (text: string) = SHA256.HashData(Encoding.UTF8.GetBytes text)

    /// The hash of the key that a request brings.
    let private keyOf (request: HttpRequest) : byte[] =
        let given = request.Headers.Authorization.ToString()
        let scheme = "Bearer "

        if given.StartsWith(scheme, StringComparison.OrdinalIgnoreCase) then
            hash (given.Substring(scheme.Length).Trim())
        else
            [||]

    // The page holds nothing; it asks for the key.
    let private isOpen (path: PathString) = path.Value = "/health" || path.Value = "/"

    /// In a time that does not tell how much of the key was right.
    let private hasKey (options: ServerOptions) (context: HttpContext) : bool =
        match options.ApiKey with
        | None -> true
        | Some _ when isOpen context.Request.Path -> true
        | Some key ->
            CryptographicOperations.FixedTimeEquals(
                ReadOnlySpan(hash key),
                ReadOnlySpan(keyOf context.Request)
            )

    let private isLoopback (host: string) =
        host.Equals("localhost", StringComparison.OrdinalIgnoreCase)
        || (match IPAddress.TryParse(host.Trim('[', ']')) with
            | true, address -> IPAddress.IsLoopback address
            | _ -> false)

    /// A server for this machine alone answers to its names only: a page elsewhere, whose name was made to point here, is not one of ours.
    let private isOurName (options: ServerOptions) (context: HttpContext) : bool =
        not (isLoopback options.Host) || isLoopback context.Request.Host.Host

    /// Lets pages of the named origins read answers; whether this request has been answered by that.
    let private allowOrigin (options: ServerOptions) (context: HttpContext) : bool =
        let request, headers = context.Request, context.Response.Headers
        let origin = request.Headers.Origin.ToString()

        let isAllowed =
            origin <> ""
            && (List.contains origin options.CorsOrigins || List.contains "*" options.CorsOrigins)

        if isAllowed then
            headers["Access-Control-Allow-Origin"] <- origin
            headers["Vary"] <- "Origin"

        let isQuestion =
            isAllowed
            && HttpMethods.IsOptions request.Method
            && request.Headers.AccessControlRequestMethod.Count > 0

        if isQuestion then
            headers["Access-Control-Allow-Methods"] <- "GET, POST"
            headers["Access-Control-Allow-Headers"] <- "authorization, content-type"
            headers["Access-Control-Max-Age"] <- "600"
            context.Response.StatusCode <- StatusCodes.Status204NoContent

        isQuestion

    /// What routing found, or not, in OpenAI's form.
    let private explain (context: HttpContext) : Task =
        let response = context.Response

        if
            response.StatusCode >= 400
            && not response.HasStarted
            && not response.ContentLength.HasValue
        then
            Reply.refuse (Refusal.ofStatus response.StatusCode) context
        else
            Task.CompletedTask

    let private served (next: RequestDelegate) (options: ServerOptions) (context: HttpContext) : Task =
        task {
            try
                do! next.Invoke context
                do! explain context
            with
            | :? BadHttpRequestException as e -> do! Reply.refuse (Refusal.ofStatus e.StatusCode) context
            | :? OperationCanceledException when context.RequestAborted.IsCancellationRequested -> ()
            // The client is gone: there is nobody to tell.
            | :? IO.IOException when context.RequestAborted.IsCancellationRequested -> ()
            | e ->
                options.Remark $"{context.Request.Path}: {e.GetType().Name}: {Printable.line e.Message}"

                if context.Response.HasStarted then
                    context.Abort()
                else
                    context.Response.Clear()
                    do! Reply.refuse Refusal.ofBug context
        }

    /// The middleware.
    let stand (options: ServerOptions) (next: RequestDelegate) : RequestDelegate =
        RequestDelegate(fun context ->
            context.Response.Headers["X-Content-Type-Options"] <- "nosniff"

            if not (isOurName options context) then
                let named = "this server is for its own machine, under the names localhost and 127.0.0.1"
                Reply.refuse (Refusal.foreign named) context
            elif allowOrigin options context then
                Task.CompletedTask
            elif not (hasKey options context) then
                Reply.refuse Refusal.unauthorised context
            else
                served next options context)
