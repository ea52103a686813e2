namespace LayerSkip.Server

open System
open System.Buffers
open System.IO
open System.Text.Json
open System.Threading
open System.Threading.Tasks
open Microsoft.AspNetCore.Http
open LayerSkip

/// The JSON object that a request carries.
[<RequireQualifiedAccess>]
module internal RequestBody =
    // Of a body that is too long: who sends it would not read the answer before the end.
    let private mostDrained = 64L * 1024L * 1024L

    /// The bytes, up to a limit.
    let private bytes
        (limit: int64)
        (context: HttpContext)
        (cancelled: CancellationToken)
        : Task<Result<byte[], Refusal>> =
        task {
            let body = context.Request.Body
            let buffer = ArrayPool.Shared.Rent 16384

            try
                use kept = new MemoryStream()
                let mutable total = 0L
                let mutable isOver = false

                while not isOver do
                    let! count = body.ReadAsync(Memory buffer, cancelled)
                    total <- total + int64 count
                    isOver <- count = 0 || total > limit + mostDrained

                    if total <= limit then
                        kept.Write(buffer, 0, count)

                return
                    if total > limit then
                        Error(Refusal.tooLarge limit)
                    else
                        Ok(kept.ToArray())
            finally
                ArrayPool.Shared.Return buffer
        }

    let private isJson (request: HttpRequest) : bool =
        match request.ContentType with
        | null -> false
        | given ->
            let mediaType = given.Split ';' |> Array.head
            mediaType.Trim().Equals("application/json", StringComparison.OrdinalIgnoreCase)

    let private parse (bytes: byte[]) : Result<JsonDocument, Refusal> =
        match Json.parse bytes with
        | Error fault -> Error(Refusal.bad $"the body is {fault}")
        | Ok document when document.RootElement.ValueKind <> JsonValueKind.Object ->
            document.Dispose()
            Error(Refusal.bad "the body must be a JSON object")
        | Ok document -> Ok document

    /// Reads it. Only what says that it is JSON is taken: a page of another origin cannot say so without asking first.
    let private read (options: ServerOptions) (context: HttpContext) : Task<Result<JsonDocument, Refusal>> =
        task {
            if not (isJson context.Request) then
                return Error Refusal.wrongType
            else
                use timer = CancellationTokenSource.CreateLinkedTokenSource context.RequestAborted
                timer.CancelAfter options.ArrivalTimeout

                try
                    let! bytes = bytes options.MaxBodyBytes context timer.Token
                    return bytes |> Result.bind parse
                with
                | :? BadHttpRequestException as e -> return Error(Refusal.ofStatus e.StatusCode)
                // A chunk whose length is beyond all numbers.
                | :? IOException when not context.RequestAborted.IsCancellationRequested ->
                    return Error(Refusal.ofStatus StatusCodes.Status400BadRequest)
                | :? OperationCanceledException when not context.RequestAborted.IsCancellationRequested ->
                    // What still comes is not read.
                    context.Response.Headers["Connection"] <- "close"
                    return Error Refusal.slow
        }

    /// Answers a request with what `answer` makes of its object, which lasts as long, or with the refusal of its body.
    let serve (options: ServerOptions) (context: HttpContext) (answer: JsonElement -> Task) : Task =
        task {
            match! read options context with
            | Error refusal -> do! Reply.refuse refusal context
            | Ok document ->
                use document = document
                do! answer document.RootElement
        }
