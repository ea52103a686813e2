namespace LayerSkip

open System

/// What turns conversations into samples: a model's template, its tokenizer, and what ends an answer.
[<NoEquality; NoComparison>]
type internal ChatWords = {
    Model: Checkpoint
    Tokenizer: Tokenizer
    /// The tokens at which an answer ends; no text that somebody typed becomes one.
    Ends: int[]
    /// What is put behind an answer where the template writes no such token.
    Closing: int option
    /// One time for all conversations, where templates tell it.
    Now: DateTimeOffset
}

/// Conversations as a chat sees them: each answer that is learned follows the ids that the model's own template prompts for it with, up to
/// and with the token that ends it. An answer whose prompt goes on from the last one's prompt and answer, id for id, continues its
/// sample; templates that tell earlier turns otherwise later on, as those do that drop what a model thought, begin another.
[<RequireQualifiedAccess>]
module internal ChatSamples =
    /// Ids that begin with what is read only; entries are these ids, those as complements.
    [<NoEquality; NoComparison>]
    type private Sample = { Ids: int[]; Entries: int[] }

    let private beginsWith (front: int[]) (whole: int[]) : bool =
        whole.AsSpan().StartsWith(ReadOnlySpan front)

    /// How a model reads conversations. `closes`: where its template ends answers with no token, the end of a text ends them. An error
    /// where it has no template.
    let words (closes: bool) (model: Checkpoint) : Result<ChatWords, LayerSkipError list> =
        let noTemplate faults =
            match faults with
            | [ LayerSkipError.NoChatTemplate path ] -> [
                LayerSkipError.BadFile(
                    path,
                    "has no chat template to put a conversation into words by; take an instruction-tuned model, or give \"prompt\" and \"response\""
                )
              ]
            | faults -> faults

        Check.both (Checkpoint.tokenizer model) (Chat.template model)
        |> Result.mapError noTemplate
        |> Result.map (fun (tokenizer, _) ->
            let eos = if closes then Tokenizer.eos tokenizer else None

            {
                Model = model
                Tokenizer = tokenizer
                Ends = Chat.stopIds model |> Array.filter (Tokenizer.isControl tokenizer)
                Closing = Chat.turnEnd model |> Option.orElse eos
                Now = DateTimeOffset.Now
            })

    /// Where what the messages say ends in a text, without the white space that the template writes behind it.
    let private endOfWords (text: Marked) : int =
        let typed =
            match text.Flips.Length with
            | 0 -> 0
            | odd when odd % 2 = 1 -> text.Text.Length
            | even -> text.Flips[even - 1]

        max typed (text.Text.TrimEnd().Length)

    /// The ids of an answer behind its prompt, both as ids and as the text that `whole` should begin with.
    let private answer
        (words: ChatWords)
        (said: ChatMessage)
        (prompt: int[])
        (asked: Marked)
        (whole: Marked)
        =
        let after (text: Marked) : int[] =
            let ids = Tokenizer.encodeMarked words.Tokenizer (Marked.toText text)

            if beginsWith prompt ids then
                ids[prompt.Length ..]
            else
                // A token of the whole lies across the border, and the prompt has been read by then.
                Marked.sub asked.Text.Length (text.Text.Length - asked.Text.Length) text
                |> Tokenizer.encodeMarkedAfter prompt words.Tokenizer

        let closed ids = Array.append ids (Option.toArray words.Closing)

        if whole.Text.StartsWith(asked.Text, StringComparison.Ordinal) then
            let ids = after whole

            match ids |> Array.tryFindIndex (fun id -> Array.contains id words.Ends) with
            | Some last -> Ok ids[..last]
            | None ->
                let last = max asked.Text.Length (endOfWords whole)
                Marked.sub 0 last whole |> after |> closed |> Ok
        elif said.ToolCalls.IsEmpty then
            // As where <think> belongs to the prompt alone: what was said is what the model is to say.
            Marked.typed said.Content
            |> Tokenizer.encodeMarkedAfter prompt words.Tokenizer
            |> closed
            |> Ok
        else
            Error [
                LayerSkipError.ChatRefused
                    "it writes an assistant's call of tools otherwise than behind what it prompts for an answer with"
            ]

    /// A conversation's samples as entries. An error where the template refuses its messages.
    let ofLesson (words: ChatWords) (lesson: ChatLesson) : Result<int[] list, LayerSkipError list> =
        let text count isAsked =
            Chat.text
                {
                    ChatRequest.ofMessages (List.truncate count lesson.Messages) with
                        Tools = lesson.Tools
                        AddGenerationPrompt = isAsked
                        Now = words.Now
                }
                words.Model
            |> Result.map Marked.ofText

        let add (samples: Sample list) (number: int) =
            text number true
            |> Result.bind (fun asked -> text (number + 1) false |> Result.map (fun whole -> asked, whole))
            |> Result.bind (fun (asked, whole) ->
                let prompt = Tokenizer.encodeMarked words.Tokenizer (Marked.toText asked)

                answer words lesson.Messages[number] prompt asked whole
                |> Result.map (fun learned ->
                    let grown (sample: Sample) =
                        let read = prompt[sample.Ids.Length ..] |> Array.map (~~~)

                        {
                            Ids = Array.append prompt learned
                            Entries = Array.concat [ sample.Entries; read; learned ]
                        }

                    match samples with
                    | latest :: earlier when beginsWith latest.Ids prompt -> grown latest :: earlier
                    | samples -> grown { Ids = [||]; Entries = [||] } :: samples))

        (Ok [], lesson.Learned)
        ||> List.fold (fun samples number -> samples |> Result.bind (fun samples -> add samples number))
        |> Result.map (List.rev >> List.map _.Entries)
