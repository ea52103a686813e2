namespace LayerSkip.Server

open System.Text.Json

/// Fields of OpenAI's requests, and of vLLM's, that change what is answered and are not served: each is refused by name, since an answer
/// that ignores one would not be what was asked. Any other field that nobody reads is ignored.
[<RequireQualifiedAccess>]
module internal KnownFields =
    let private isNumber (number: float) (value: JsonElement) =
        value.ValueKind = JsonValueKind.Number && value.GetDouble() = number

    let private isFalse (value: JsonElement) = value.ValueKind = JsonValueKind.False
    let private isEmpty (value: JsonElement) =
        value.ValueKind = JsonValueKind.Array && value.GetArrayLength() = 0
        || value.ValueKind = JsonValueKind.String && value.GetString() = ""

    let private never (_: JsonElement) = false

    let private isTextOnly (value: JsonElement) =
        match RequestReader.TryTexts value with
        | Some texts -> texts = [ "text" ]
        | None -> false

    /// Each with the values that ask for nothing, and what to do instead.
    let private ofBoth: (string * (JsonElement -> bool) * string) list = [
        "use_beam_search", isFalse, "leave it out"
        "length_penalty", isNumber 1.0, "leave it out: there is no beam search"
        "min_tokens", isNumber 0.0, "leave it out"
        "bad_words", isEmpty, "give logit_bias"
        "allowed_token_ids", isEmpty, "give logit_bias"
        "truncate_prompt_tokens", never, "cut the prompt before it is sent"
        "prompt_logprobs", isFalse, "give echo and logprobs to /v1/completions"
        "include_stop_str_in_output", isFalse, "add it to the text yourself"
        "logits_processors", isEmpty, "give logit_bias"
        "guided_json", never, "give response_format"
        "guided_regex", never, "give response_format with a schema"
        "guided_choice", never, "give response_format with a schema"
        "guided_grammar", never, "give response_format with a schema"
        "structured_outputs", never, "give response_format"
        "prediction", never, "leave it out: lookup drafts from the prompt by itself"
    ]

    let private ofCompletions = [
        "suffix", isEmpty, "a text is only ever continued"
        "best_of", isNumber 1.0, "give n, and choose among the texts"
        "prompt_embeds", never, "give prompt as text or ids"
    ]

    let private ofChat = [
        "functions", isEmpty, "give tools"
        "function_call", never, "give tool_choice"
        "modalities", isTextOnly, "texts alone are written"
        "audio", never, "texts alone are written"
        "web_search_options", never, "give the search as a tool"
        "reasoning_effort", never, "leave it out"
        "verbosity", never, "leave it out"
        "echo", isFalse, "give it to /v1/completions"
    ]

    let private refuse (reader: RequestReader) fields : unit =
        for name, asksNothing, instead in fields do
            match reader.TryField name with
            | Some value when not (asksNothing value) -> reader.Fault(name, $"is not served; {instead}")
            | _ -> ()

    /// A fault for each that a request for a completion has.
    let refuseOfCompletions (reader: RequestReader) : unit = refuse reader (ofBoth @ ofCompletions)

    /// A fault for each that a request for a chat completion has.
    let refuseOfChat (reader: RequestReader) : unit = refuse reader (ofBoth @ ofChat)
