namespace LayerSkip.Server

open System
open System.Threading
open LayerSkip

/// Counts the requests that are being served, so that no more are taken than may wait, and none while the server ends. Any thread may ask.
[<Sealed>]
type internal Gate(most: int) =
    let stopping = new CancellationTokenSource()
    let mutable inside = 0
    let mutable isClosed = false

    /// Cancelled when what runs has had its time.
    member _.Stopping: CancellationToken = stopping.Token
    member _.IsClosed = Volatile.Read &isClosed
    member _.Inside = Volatile.Read &inside

    /// A place until the result is disposed, or why there is none.
    member this.TryEnter() : Result<IDisposable, Refusal> =
        if this.IsClosed then
            Error Refusal.ending
        elif Interlocked.Increment &inside > most then
            Interlocked.Decrement &inside |> ignore
            Error Refusal.busy
        else
            Ok
                {
                    new IDisposable with
                        member _.Dispose() = Interlocked.Decrement &inside |> ignore
                }

    /// Nobody enters from now on.
    member _.Close() : unit = Volatile.Write(&isClosed, true)

    /// Ends what is inside.
    member _.Cancel() : unit = stopping.Cancel()
