namespace LayerSkip.Server

open System.Buffers
open System.Text.Json
open System.Threading.Tasks
open Microsoft.AspNetCore.Http
open LayerSkip

/// Whole answers.
[<RequireQualifiedAccess>]
module internal Reply =
    /// An answer of any type.
    let bytes
        (status: int)
        (contentType: string)
        (body: System.ReadOnlyMemory<byte>)
        (context: HttpContext)
        : Task =
        let response = context.Response
        response.StatusCode <- status
        response.ContentType <- contentType
        response.ContentLength <- int64 body.Length

        if HttpMethods.IsHead context.Request.Method then
            Task.CompletedTask
        else
            response.Body.WriteAsync(body, context.RequestAborted).AsTask()

    let private written status (write: Utf8JsonWriter -> unit) context =
        let buffer = ArrayBufferWriter<byte>()
        using (new Utf8JsonWriter(buffer, JsonWrite.options)) write
        bytes status "application/json; charset=utf-8" buffer.WrittenMemory context

    /// An object with these fields.
    let json (fields: Utf8JsonWriter -> unit) (context: HttpContext) : Task =
        written
            StatusCodes.Status200OK
            (fun json ->
                json.WriteStartObject()
                fields json
                json.WriteEndObject())
            context

    /// OpenAI's form of an error; nothing where the answer has begun.
    let refuse (refusal: Refusal) (context: HttpContext) : Task =
        let response = context.Response

        if response.HasStarted then
            Task.CompletedTask
        else
            match refusal.RetryAfter with
            | Some seconds -> response.Headers["Retry-After"] <- string seconds
            | None -> ()

            if refusal.Status = StatusCodes.Status401Unauthorized then
                response.Headers["WWW-Authenticate"] <- "Bearer"

            written refusal.Status (Refusal.write refusal) context

    /// What `answer` makes of a value, or the refusal.
    let orRefuse (context: HttpContext) (answer: 'T -> Task) (result: Result<'T, Refusal>) : Task =
        match result with
        | Ok value -> answer value
        | Error refusal -> refuse refusal context
