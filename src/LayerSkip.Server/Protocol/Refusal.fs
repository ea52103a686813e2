namespace LayerSkip.Server

open System.Text.Json
open LayerSkip

/// What is wrong with one field of a request; the text names it. "": with the request as a whole.
type Fault = { Field: string; Text: string }

[<RequireQualifiedAccess>]
module internal Fault =
    /// What a message shows of a text that somebody sent: on one line, and not much of it.
    let quoted (text: string) : string = $"\"{Printable.line (Printable.cut 60 text)}\""

    /// Of a field that names an id which a vocabulary of this size has not.
    let ofUnknownIds (field: string) (vocabulary: int) (ids: int seq) : Fault option =
        ids
        |> Seq.tryFind (fun id -> id < 0 || id >= vocabulary)
        |> Option.map (fun id -> {
            Field = field
            Text =
                $"\"{field}\" has {id}, which is outside the vocabulary; ids run from 0 to {vocabulary - 1}"
        })

/// Why a request is not served: what OpenAI's clients read as an error. No path of the machine is in it.
type Refusal = {
    /// HTTP's, 400 or more.
    Status: int
    /// OpenAI's name for the kind: "invalid_request_error".
    Kind: string
    /// OpenAI's name for the cause, where it has one: "model_not_found".
    Code: string option
    /// The first field at fault.
    Param: string option
    Message: string
    /// What the message tells, where the request is at fault.
    Faults: Fault list
    /// Seconds after which another try may be welcome.
    RetryAfter: int option
}

[<RequireQualifiedAccess>]
module Refusal =
    /// The kind of an error that the request is to blame for.
    let private invalidKind = "invalid_request_error"

    let private create status kind code message : Refusal = {
        Status = status
        Kind = kind
        Code = code
        Param = None
        Message = message
        Faults = []
        RetryAfter = None
    }

    /// A request that must not be made again as it is.
    let bad (message: string) : Refusal = create 400 invalidKind None message

    /// The most faults that a message tells.
    let private most = 8

    /// All faults of a request in one message; at least one.
    let ofFaults (faults: Fault list) : Refusal =
        let told = faults |> List.truncate most |> List.map _.Text |> String.concat "; "

        let more =
            if faults.Length > most then
                $"; and {faults.Length - most} more"
            else
                ""

        {
            bad (told + more) with
                Param =
                    faults |> List.tryPick (fun fault -> if fault.Field = "" then None else Some fault.Field)
                Faults = faults
        }

    /// One of all; at least one. What the request is to blame for comes first, every fault of it, but for what follows from a field that an
    /// earlier one names.
    let internal join (refusals: Refusal list) : Refusal =
        let add (told: Fault list) (refusal: Refusal) =
            let named = told |> List.map _.Field |> List.filter ((<>) "") |> Set.ofList
            told @ (refusal.Faults |> List.filter (fun fault -> not (named.Contains fault.Field)))

        match List.fold add [] refusals with
        | [] -> List.head refusals
        | faults -> { ofFaults faults with Code = refusals |> List.tryPick _.Code }

    /// A place that is not served.
    let notFound: Refusal = create 404 invalidKind (Some "not_found") "there is nothing here; see /v1/models"

    /// A model that is not the one that is served.
    let noModel (asked: string) (served: string) : Refusal = {
        create
            404
            invalidKind
            (Some "model_not_found")
            $"the model {Fault.quoted asked} is not served here; this is {served}" with
            Param = Some "model"
    }

    /// A place that takes another method.
    let wrongMethod: Refusal =
        create
            405
            invalidKind
            (Some "method_not_allowed")
            "this place takes another method; see the header Allow"

    /// No key, or another.
    let unauthorised: Refusal =
        create
            401
            "authentication_error"
            (Some "invalid_api_key")
            "the API key is missing or wrong; send it as Authorization: Bearer KEY"

    /// A browser was sent here under another name, or by another page.
    let foreign (what: string) : Refusal = create 403 "permission_error" (Some "forbidden") what

    /// More bytes than a request may have.
    let tooLarge (limit: int64) : Refusal =
        create 413 invalidKind (Some "request_too_large") $"the body has more than {limit} bytes"

    /// Something else than JSON.
    let wrongType: Refusal =
        create
            415
            invalidKind
            (Some "unsupported_media_type")
            "the body must be sent with Content-Type: application/json"

    /// The body did not come in time.
    let slow: Refusal = create 408 invalidKind (Some "request_timeout") "the request did not arrive in time"

    /// Every place is taken.
    let busy: Refusal = {
        create 429 "rate_limit_error" (Some "server_busy") "as many requests wait as may; try again" with
            RetryAfter = Some 1
    }

    /// The server ends.
    let ending: Refusal = {
        create 503 "server_error" (Some "shutting_down") "the server is shutting down" with
            RetryAfter = Some 5
    }

    /// The text took longer than a request may.
    let overdue: Refusal =
        create 503 "server_error" (Some "timeout") "the request took longer than this server lets one take"

    /// Our fault. What it is stands on the server's own standard error.
    let ofBug: Refusal =
        create 500 "server_error" (Some "internal_error") "something went wrong in the server"

    /// How HTTP's own faults are told: those that the server finds before it knows what is asked.
    let ofStatus (status: int) : Refusal =
        match status with
        | 401 -> unauthorised
        | 404 -> notFound
        | 405 -> wrongMethod
        | 408 -> slow
        | 411 ->
            create
                status
                invalidKind
                (Some "length_required")
                "the body needs a header Content-Length, or HTTP/1.1 and Transfer-Encoding: chunked"
        | 414 ->
            create
                status
                invalidKind
                (Some "uri_too_long")
                "the request's first line is longer than this server reads"
        | 415 -> wrongType
        | 431 ->
            create
                status
                invalidKind
                (Some "headers_too_large")
                "the request has more headers, or longer ones, than this server reads"
        | 505 ->
            create
                status
                invalidKind
                (Some "http_version_not_supported")
                "this server speaks HTTP/1.1 and HTTP/1.0"
        | status when status >= 500 -> ofBug
        | status ->
            create
                status
                invalidKind
                None
                "the request is not valid HTTP, or its body does not end as it says"

    /// An option of the library as a request spells it.
    let private field (option: string) : string =
        match option with
        | "max-new-tokens" -> "max_tokens"
        | option -> option.Replace('-', '_')

    /// A fault of the library's in the request's words; None of what no request can put right, or is not to be told.
    let internal tryFault (error: LayerSkipError) : Fault option =
        match error with
        | LayerSkipError.OutOfRange(option, value, allowed) when not (option.Contains ' ') ->
            let name = field option

            Some {
                Field = name
                Text = LayerSkipError.message (LayerSkipError.OutOfRange($"\"{name}\"", value, allowed))
            }
        | LayerSkipError.Excluded(option, _, other, chosen, why) ->
            let name = field option

            Some { Field = name; Text = $"\"{name}\" does not go with {field other} {chosen}: {why}" }
        | LayerSkipError.ExitOutsideModel _ ->
            Some { Field = "exit_layer"; Text = LayerSkipError.message error }
        | LayerSkipError.PromptTooLong _
        | LayerSkipError.UnknownToken _
        | LayerSkipError.EmptyPrompt -> Some { Field = "prompt"; Text = LayerSkipError.message error }
        | LayerSkipError.ChatRefused _ -> Some { Field = "messages"; Text = LayerSkipError.message error }
        | LayerSkipError.NoPlaceForTools _ ->
            Some {
                Field = "tools"
                Text = "\"tools\" cannot be told to this model: its chat template has no place for them"
            }
        | LayerSkipError.NoChatTemplate _ ->
            Some {
                Field = "messages"
                Text = "the model has no chat template; send a prompt to /v1/completions"
            }
        | LayerSkipError.Unsupported _ -> Some { Field = ""; Text = LayerSkipError.message error }
        | LayerSkipError.NoTokenizer _
        | LayerSkipError.NoTokenizerInGguf _ ->
            Some { Field = "prompt"; Text = "the model has no tokenizer; give the prompt as token ids" }
        | _ -> None

    /// The library's faults; the kinds that tell of files are the server's own affair.
    let ofErrors (errors: LayerSkipError list) : Refusal =
        match errors |> List.map tryFault with
        | told when not told.IsEmpty && List.forall Option.isSome told ->
            let refusal = ofFaults (List.choose id told)

            if errors |> List.exists _.IsPromptTooLong then
                { refusal with Code = Some "context_length_exceeded" }
            else
                refusal
        | _ when errors |> List.exists _.IsNotEnoughMemory -> {
            create 503 "server_error" (Some "out_of_memory") "there is not enough memory for this text" with
                RetryAfter = Some 5
          }
        | _ when errors |> List.exists _.IsOverflow ->
            create 500 "server_error" (Some "overflow") "the model's numbers overflow"
        | _ -> ofBug

    /// Faults of what a text must be; those of a schema name the place in it, not one of the machine.
    let ofGrammar (field: string) (errors: LayerSkipError list) : Refusal =
        ofFaults [
            for error in errors -> { Field = field; Text = LayerSkipError.message error }
        ]

    /// {"error": {"message", "type", "param", "code"}}
    let write (refusal: Refusal) (json: Utf8JsonWriter) : unit =
        json.WriteStartObject()

        json
        |> JsonWrite.object "error" (fun _ ->
            json.WriteString("message", refusal.Message)
            json.WriteString("type", refusal.Kind)
            json |> JsonWrite.textOrNull "param" refusal.Param
            json |> JsonWrite.textOrNull "code" refusal.Code)

        json.WriteEndObject()
