namespace LayerSkip.Server

open System.Collections.Generic
open System.Text
open System.Text.Json
open LayerSkip

/// A token of an answer with what the model's own law says there; None of the first of a prompt, which follows nothing.
[<Struct>]
type internal ScoredToken = { Id: int; Scores: TokenLogProbs option }

/// Where tokens begin in a text, one after another: those that are part of a character where it does.
[<Sealed>]
type internal TokenPlaces(start: int, stream: TextStream) =
    let mutable place = start
    let mutable stream = stream

    /// Where the next token begins.
    member _.Next(id: int) : int =
        let before = place
        let struct (text, after) = TextStream.push id stream
        place <- place + text.Length
        stream <- after
        before

/// Log-probabilities as OpenAI writes them, in the form of completions and in that of chats.
[<RequireQualifiedAccess>]
module internal LogProbsJson =
    // No number of JSON is -infinity; vLLM's stands for it.
    let private least = -9999.0

    /// The text that a token alone is; U+FFFD where it is part of a character.
    let private text (tokenizer: Tokenizer) (id: int) : string =
        Tokenizer.decodeContinuing true tokenizer [ id ]

    /// A name that no other token has: its text, or where that is part of a character its id.
    let private name (tokenizer: Tokenizer) (id: int) : string =
        match text tokenizer id with
        | shown when shown.Contains '\uFFFD' || shown = "" -> $"token_id:{id}"
        | shown -> shown

    let private number (value: float) = max least value

    /// The likeliest tokens with the token's own, whose number is the same to the bit wherever it stands.
    let private likeliest (scored: ScoredToken) (scores: TokenLogProbs) : TokenLogProb list =
        let top = List.ofArray scores.Top

        if top |> List.exists (fun other -> other.Id = scored.Id) then
            top
        else
            top @ [ { Id = scored.Id; LogProb = scores.LogProb } ]

    /// The form of completions: "tokens", "token_logprobs", "top_logprobs", "text_offset", which are `places`.
    let ofCompletion
        (tokenizer: Tokenizer)
        (places: int list)
        (tokens: ScoredToken list)
        (json: Utf8JsonWriter)
        : unit =
        let orNull write (value: 'T option) =
            match value with
            | Some value -> write value
            | None -> json.WriteNullValue()

        json
        |> JsonWrite.object "logprobs" (fun _ ->
            json
            |> JsonWrite.array "tokens" tokens (fun token -> json.WriteStringValue(text tokenizer token.Id))

            json
            |> JsonWrite.array "token_logprobs" tokens (fun token ->
                token.Scores |> orNull (fun scores -> json.WriteNumberValue(number scores.LogProb)))

            json
            |> JsonWrite.array "top_logprobs" tokens (fun token ->
                token.Scores
                |> orNull (fun scores ->
                    json.WriteStartObject()
                    let named = HashSet<string>()

                    for other in likeliest token scores do
                        let name = name tokenizer other.Id

                        // Of two ids with one text, the likelier.
                        if named.Add name then
                            json.WriteNumber(name, number other.LogProb)

                    json.WriteEndObject()))

            json |> JsonWrite.ints "text_offset" places)

    let private chatToken tokenizer (id: int) (logProb: float) (json: Utf8JsonWriter) =
        let text = text tokenizer id
        json.WriteString("token", text)
        json.WriteNumber("logprob", number logProb)

        if text.Contains '\uFFFD' then
            json.WriteNull "bytes"
        else
            json
            |> JsonWrite.array "bytes" (Encoding.UTF8.GetBytes text) (fun value ->
                json.WriteNumberValue(int value))

    /// The form of chats: {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}.
    let ofChat (tokenizer: Tokenizer) (tokens: ScoredToken list) (json: Utf8JsonWriter) : unit =
        json
        |> JsonWrite.object "logprobs" (fun _ ->
            json
            |> JsonWrite.objects "content" tokens (fun token ->
                let scores = token.Scores.Value
                json |> chatToken tokenizer token.Id scores.LogProb

                json
                |> JsonWrite.objects "top_logprobs" scores.Top (fun other ->
                    json |> chatToken tokenizer other.Id other.LogProb)))
