namespace LayerSkip.Server

open System
open System.Text.Json
open LayerSkip

/// What every part of an answer begins with.
type internal AnswerHead = {
    Id: string
    /// Seconds since 1970.
    Created: int64
    Model: string
}

[<RequireQualifiedAccess>]
module internal AnswerHead =
    /// A new answer's: `prefix` says what it is an answer to.
    let create (prefix: string) (model: string) : AnswerHead = {
        Id = $"{prefix}-{Guid.NewGuid():N}"
        Created = DateTimeOffset.UtcNow.ToUnixTimeSeconds()
        Model = model
    }

    /// "id", "object", "created", "model".
    let write (kind: string) (head: AnswerHead) (json: Utf8JsonWriter) : unit =
        json.WriteString("id", head.Id)
        json.WriteString("object", kind)
        json.WriteNumber("created", head.Created)
        json.WriteString("model", head.Model)

    /// "usage": tokens of each prompt, counted once for all its texts, and of the texts.
    let usage (count: int) (texts: Completion list) (json: Utf8JsonWriter) : unit =
        let prompts =
            texts |> List.indexed |> List.filter (fun (place, _) -> place % count = 0) |> List.map snd
        let prompt = prompts |> List.sumBy _.PromptIds.Length
        let made = texts |> List.sumBy _.TokenIds.Length

        json
        |> JsonWrite.object "usage" (fun _ ->
            json.WriteNumber("prompt_tokens", prompt)
            json.WriteNumber("completion_tokens", made)
            json.WriteNumber("total_tokens", prompt + made)

            json
            |> JsonWrite.object "prompt_tokens_details" (fun _ ->
                json.WriteNumber("cached_tokens", prompts |> List.sumBy _.ReusedIds)))

    let private origin (origin: Origin) : string =
        match origin with
        | Origin.Prefill -> "prefill"
        | Origin.Plain -> "plain"
        | Origin.Drafted -> "drafted"
        | Origin.LookedUp -> "lookup"
        | Origin.Corrected -> "corrected"
        | Origin.Bonus -> "bonus"

    /// "tokens": each with where it comes from; "rounds": what each drafted and what was kept.
    let origins (arrival: Arrival) (json: Utf8JsonWriter) : unit =
        json
        |> JsonWrite.objects "tokens" arrival.Tokens (fun token ->
            json.WriteNumber("id", token.Id)
            json.WriteString("text", token.Text)
            json.WriteString("origin", origin token.Origin))

        json
        |> JsonWrite.array "rounds" arrival.Rounds (fun (drafted, accepted) ->
            json.WriteStartArray()
            json.WriteNumberValue drafted
            json.WriteNumberValue accepted
            json.WriteEndArray())
