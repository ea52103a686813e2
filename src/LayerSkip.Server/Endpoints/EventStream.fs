namespace LayerSkip.Server

open System
open System.Buffers
open System.Text.Json
open System.Threading
open System.Threading.Tasks
open Microsoft.AspNetCore.Http
open Microsoft.AspNetCore.Http.Features
open LayerSkip

/// Server-sent events: `data: {...}`, and `data: [DONE]` at the end. What is written is sent by `Flush`. A client that takes nothing of it for as
/// long as `patience` is let go of.
[<Sealed>]
type internal EventStream(context: HttpContext, patience: TimeSpan) =
    let out = context.Response.BodyWriter
    let json = new Utf8JsonWriter(out, JsonWrite.options)
    let raw (bytes: byte[]) = out.Write(ReadOnlySpan bytes)
    let opening, closing = "data: "B, "\n\n"B

    /// Sets the answer's head, before anything of it is sent.
    member _.Open() : unit =
        let response = context.Response
        response.ContentType <- "text/event-stream; charset=utf-8"
        response.Headers["Cache-Control"] <- "no-cache"
        // Proxies that would collect events before they send them know this one.
        response.Headers["X-Accel-Buffering"] <- "no"

        match context.Features.Get<IHttpResponseBodyFeature>() with
        | null -> ()
        | body -> body.DisableBuffering()

    /// An event: a JSON value.
    member _.Write(write: Utf8JsonWriter -> unit) : unit =
        raw opening
        json.Reset()
        write json
        json.Flush()
        raw closing

    /// The event after which none comes.
    member _.Close() : unit = raw "data: [DONE]\n\n"B

    /// Sends what was written; waits while the client is slow to read. OperationCanceledException where it is let go of.
    member _.Flush(cancelled: CancellationToken) : Task =
        let sent = out.FlushAsync cancelled

        if sent.IsCompletedSuccessfully then
            Task.CompletedTask
        else
            task {
                try
                    let! _ = sent.AsTask().WaitAsync patience
                    ()
                with :? TimeoutException ->
                    context.Abort()
                    do! Task.Delay(Timeout.Infinite, context.RequestAborted)
            }

    interface IDisposable with
        member _.Dispose() = json.Dispose()
