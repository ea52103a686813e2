namespace LayerSkip.Server

open System.Collections.Generic
open System.Text.Json
open System.Threading.Tasks
open Microsoft.AspNetCore.Http
open LayerSkip

/// `/v1/completions`.
[<RequireQualifiedAccess>]
module internal Completions =
    /// A prompt as it is echoed: its text where it came as one.
    let private echo (model: ServedModel) (form: PromptForm) : string =
        match form, model.Checkpoint.Tokenizer with
        | PromptForm.Text text, _ -> text
        | PromptForm.Ids ids, Some tokenizer -> Tokenizer.decode true tokenizer ids
        | PromptForm.Ids _, None -> ""

    let private ofPrompt (prompt: int[]) (scores: TokenLogProbs option[]) = [
        for id, scores in Seq.zip prompt scores do
            { Id = id; Scores = scores }
    ]

    let private ofTokens (tokens: TokenEvent list) = [
        for token in tokens do
            { Id = token.Id; Scores = token.LogProbs }
    ]

    let private form (service: Service) (request: CompletionRequest) (plan: WritingPlan) : AnswerForm =
        let tokenizer = service.Model.Checkpoint.Tokenizer

        let echoes =
            if request.IsEchoed then
                request.Prompts |> List.map (echo service.Model) |> Array.ofList
            else
                [||]

        let promptOf (order: TextOrder) = order.Place / request.Writing.Count
        let echoOf order = Array.tryItem (promptOf order) echoes |> Option.defaultValue ""

        // An echoed prompt's tokens stand in its text, but for those that are no part of it.
        let promptPlaces (order: TextOrder) (scored: ScoredToken list) (tokenizer: Tokenizer) : int list =
            let unseen =
                service.Model.Unseen(request.AddsSpecial, request.Prompts[promptOf order])
                |> min scored.Length

            let places = TokenPlaces(0, TextStream.create true tokenizer)

            List.replicate unseen 0
            @ (scored |> List.skip unseen |> List.map (fun token -> places.Next token.Id))

        let following = Dictionary<int, TokenPlaces>()

        // A text's new tokens stand after its prompt, where that is echoed; each is asked for once.
        let newPlaces (order: TextOrder) (scored: ScoredToken list) (tokenizer: Tokenizer) : int list =
            if not (following.ContainsKey order.Place) then
                following[order.Place] <-
                    TokenPlaces(
                        (echoOf order).Length,
                        TextStream.continuing request.Writing.ShowSpecial tokenizer
                    )

            scored |> List.map (fun token -> following[order.Place].Next token.Id)

        let choice
            (order: TextOrder)
            (text: string)
            (scored: ScoredToken list)
            (places: Tokenizer -> int list)
            (finish: FinishReason option)
            (json: Utf8JsonWriter)
            =
            json.WriteNumber("index", order.Place)
            json.WriteString("text", text)

            match request.LogProbs, tokenizer with
            | Some _, Some tokenizer -> LogProbsJson.ofCompletion tokenizer (places tokenizer) scored json
            | _ -> json.WriteNull "logprobs"

            json |> JsonWrite.textOrNull "finish_reason" (finish |> Option.map FinishReason.name)

        let piece (order: TextOrder) (arrival: Arrival) json =
            let scored = ofTokens arrival.Tokens
            choice
                order
                arrival.Text
                scored
                (newPlaces order scored)
                (arrival.End |> Option.map _.Finish)
                json

            if request.Writing.TellsOrigins then
                AnswerHead.origins arrival json

        {
            Head = AnswerHead.create "cmpl" service.Model.Name
            Plan = plan
            Writing = request.Writing
            Kind = "text_completion"
            PieceKind = "text_completion"
            Whole =
                fun text ->
                    let completion = text.Completion
                    let written = completion.Text |> Option.defaultValue ""
                    let prompt = ofPrompt completion.PromptIds completion.PromptLogProbs
                    let made = ofTokens text.Tokens

                    choice
                        text.Order
                        (echoOf text.Order + written)
                        (prompt @ made)
                        (fun tokenizer ->
                            promptPlaces text.Order prompt tokenizer @ newPlaces text.Order made tokenizer)
                        (Some completion.Finish)
            Open =
                fun order arrival -> [
                    if request.IsEchoed then
                        let scored = ofPrompt order.Prompt arrival.Prompt
                        choice order (echoOf order) scored (promptPlaces order scored) None
                ]
            Piece =
                fun order arrival -> [
                    if
                        arrival.Text <> ""
                        || arrival.End.IsSome
                        || request.LogProbs.IsSome && not arrival.Tokens.IsEmpty
                        || request.Writing.TellsOrigins
                    then
                        piece order arrival
                ]
        }

    let private prompts (model: ServedModel) (request: CompletionRequest) : Result<int[] list, Refusal> =
        (request.Prompts, Ok [])
        ||> List.foldBack (fun prompt others ->
            match model.Encode(request.AddsSpecial, prompt), others with
            | Ok ids, Ok others -> Ok(ids :: others)
            | Error refusal, _
            | _, Error refusal -> Error refusal)

    let private prepare (service: Service) (reader: RequestReader) =
        let request = CompletionRequest.read reader
        let model = service.Model

        let frame = {
            Drafting = service.Options.Drafting
            StopIds = model.Checkpoint.StopIds
            MaxTokens = CompletionRequest.defaultTokens
            LogProbs = request.LogProbs
            PromptLogProbs = if request.IsEchoed then request.LogProbs else None
            Grammar = None
        }

        model.Check request.Writing.Model
        |> Result.bind (fun () -> prompts model request |> Service.plan service frame request.Writing)
        |> Result.map (fun (plan, prompts) -> form service request plan, prompts)
        |> reader.Result

    /// Answers a request.
    let serve (service: Service) (context: HttpContext) : Task =
        Exchange.serve service context (fun root -> prepare service (RequestReader root))
