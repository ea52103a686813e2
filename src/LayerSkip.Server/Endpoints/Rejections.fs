namespace LayerSkip.Server

open System
open System.Buffers
open System.IO.Pipelines
open System.Text
open System.Text.Json
open System.Threading
open System.Threading.Tasks
open Microsoft.AspNetCore.Connections
open LayerSkip

/// What Kestrel refuses before any middleware sees it (a request that cannot be parsed, headers that are too large or come too slowly) it answers by a
/// status without a body. On its way to the client such an answer gets the body that all other refusals have.
[<RequireQualifiedAccess>]
module internal Rejections =
    let private none = "\r\nContent-Length: 0\r\n"B
    let private ending = "\r\n\r\n"B

    let private body (status: int) : byte[] =
        let buffer = ArrayBufferWriter<byte>()
        using (new Utf8JsonWriter(buffer, JsonWrite.options)) (Refusal.write (Refusal.ofStatus status))
        buffer.WrittenSpan.ToArray()

    /// The head of a refusal without a body: its status, and where its length stands. No refusal of our own is without one.
    let private tryRejection (head: ReadOnlySpan<byte>) : struct (int * int) voption =
        let isRefusal = head.StartsWith("HTTP/1.1 4"B) || head.StartsWith("HTTP/1.1 505"B)
        let length = if isRefusal then head.IndexOf(ReadOnlySpan none) else -1

        if length >= 0 && head.EndsWith(ReadOnlySpan ending) then
            ValueSome(struct (int (Encoding.ASCII.GetString(head.Slice(9, 3))), length))
        else
            ValueNone

    /// The answer in place of a refusal without a body; null where this is none.
    let tryAnswer (head: ReadOnlySpan<byte>) : byte[] =
        match tryRejection head with
        | ValueNone -> null
        | ValueSome(struct (status, at)) ->
            let body = body status

            let said =
                $"\r\nContent-Type: application/json; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {body.Length}\r\n"

            Array.concat [
                head.Slice(0, at).ToArray()
                Encoding.ASCII.GetBytes said
                head.Slice(at + none.Length).ToArray()
                body
            ]

    /// What is written to a connection. Kestrel writes a head in one piece, of which nothing is gone before it says how long it is.
    [<Sealed>]
    type private Writer(inner: PipeWriter) =
        inherit PipeWriter()
        let mutable lent = Memory<byte>.Empty

        /// Whether such a refusal was the answer.
        member val Refused = false with get, set

        override _.GetMemory(least) =
            lent <- inner.GetMemory least
            lent

        override this.GetSpan(least) = this.GetMemory(least).Span

        override this.Advance(count) =
            let answer = tryAnswer (Span.op_Implicit (lent.Span.Slice(0, count)))

            if isNull answer || answer.Length > lent.Length then
                inner.Advance count
                lent <- lent.Slice count
            else
                this.Refused <- true
                answer.CopyTo(lent)
                inner.Advance answer.Length
                lent <- lent.Slice answer.Length

        override _.FlushAsync(cancelled) = inner.FlushAsync cancelled
        override _.CancelPendingFlush() = inner.CancelPendingFlush()
        override _.Complete(fault) = inner.Complete fault
        override _.CompleteAsync(fault) = inner.CompleteAsync fault
        override _.CanGetUnflushedBytes = inner.CanGetUnflushedBytes
        override _.UnflushedBytes = inner.UnflushedBytes

    /// What is read from a connection, which stays readable when Kestrel is done with it.
    [<Sealed>]
    type private Reader(inner: PipeReader) =
        inherit PipeReader()
        override _.ReadAsync(cancelled) = inner.ReadAsync cancelled
        override _.TryRead(result) = inner.TryRead(&result)
        override _.AdvanceTo(consumed) = inner.AdvanceTo consumed
        override _.AdvanceTo(consumed, examined) = inner.AdvanceTo(consumed, examined)
        override _.CancelPendingRead() = inner.CancelPendingRead()
        override _.Complete(_: exn) = ()

    /// How long more of a refused request is waited for, and how long it is read at the most.
    let private quiet, private most = TimeSpan.FromSeconds 0.5, TimeSpan.FromSeconds 5.0

    /// Reads what a client still sends of a request that was refused, or the system would throw away the answer with the connection
    /// (RFC 9112, 9.6).
    let private linger (input: PipeReader) (closed: CancellationToken) : Task =
        task {
            use over = CancellationTokenSource.CreateLinkedTokenSource closed
            over.CancelAfter most

            try
                let mutable isMore = true

                while isMore do
                    use waits = CancellationTokenSource.CreateLinkedTokenSource over.Token
                    waits.CancelAfter quiet
                    let! read = input.ReadAsync waits.Token
                    input.AdvanceTo read.Buffer.End
                    isMore <- not (read.IsCompleted || read.IsCanceled)
            with _ ->
                // Quiet, gone, or broken off by the client: there is nothing more to read.
                ()
        }

    /// The connections' middleware.
    let explain (next: ConnectionDelegate) : ConnectionDelegate =
        ConnectionDelegate(fun connection ->
            let transport = connection.Transport
            let input, output = Reader transport.Input, Writer transport.Output

            connection.Transport <- {
                new IDuplexPipe with
                    member _.Input = input
                    member _.Output = output
            }

            task {
                try
                    do! next.Invoke connection

                    if output.Refused then
                        do! linger transport.Input connection.ConnectionClosed
                finally
                    connection.Transport <- transport
            })
