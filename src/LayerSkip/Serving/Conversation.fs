namespace LayerSkip

open System
open System.Threading

/// One text that goes on from turn to turn and keeps its cache: of a prompt that begins as the last one ended, only what is new is read. One
/// turn at a time; a turn that begins while another is pulled reads all of its prompt.
[<Sealed>]
type Conversation(checkpoint: Checkpoint) =
    let weights = checkpoint.Weights
    let gate = obj ()
    let mutable held: ReadText option = None
    let mutable disposed = false

    let swap (text: ReadText option) =
        lock gate (fun () ->
            let before = held
            held <- text
            before)

    let take (strategy: Strategy) (prompt: int[]) () : Cache =
        ObjectDisposedException.ThrowIf(disposed, typeof<Conversation>)

        match swap None with
        | Some text ->
            match ReadText.usable weights strategy (ReadOnlySpan prompt) text with
            | 0 ->
                ReadText.dispose text
                ReadText.empty weights.Config.Context weights strategy
            | usable -> ReadText.take strategy usable text
        | None -> ReadText.empty weights.Config.Context weights strategy

    let give (text: ReadText) =
        if disposed then
            ReadText.dispose text
        else
            swap (Some text) |> Option.iter ReadText.dispose

    /// The model that speaks.
    member _.Checkpoint = checkpoint

    /// The ids that its cache has read.
    member _.Ids: int[] = lock gate (fun () -> held |> Option.map _.Ids |> Option.defaultValue [||])

    /// Bytes of its cache.
    member _.Bytes: int64 = lock gate (fun () -> held |> Option.map ReadText.bytes |> Option.defaultValue 0L)

    /// As `Generation.prepare`, for the whole text so far as ids. Enumerated once, and to its end or disposed: the cache then comes back.
    member _.Prepare
        (options: GenerationOptions, prompt: int[])
        : Result<CancellationToken -> seq<GenerationEvent>, LayerSkipError list> =
        let loan = { Take = take options.Strategy prompt; Return = give }

        Generation.prepareOver loan weights checkpoint.Tokenizer options prompt
        |> Result.map (fun start -> start >> Seq.concat)

    /// Forgets what was read.
    member _.Clear() : unit = swap None |> Option.iter ReadText.dispose

    interface IDisposable with
        member this.Dispose() =
            disposed <- true
            this.Clear()

/// Conversations as functions.
[<RequireQualifiedAccess>]
module Conversation =
    /// Nothing read yet. It is disposed before its model.
    let start (checkpoint: Checkpoint) : Conversation = new Conversation(checkpoint)

    /// The model's continuation of a text of ids, of which what the last turn left in the cache is not read again.
    let continued (options: GenerationOptions) (prompt: int[]) (conversation: Conversation) =
        conversation.Prepare(options, prompt)

    /// The model's answer to messages, the last of which is the user's, by its own chat template. `Chat.stopIds` end an answer.
    let answer (options: GenerationOptions) (messages: ChatMessage list) (conversation: Conversation) =
        Chat.prompt (ChatRequest.ofMessages messages) conversation.Checkpoint
        |> Result.bind (fun prompt -> continued options prompt conversation)
