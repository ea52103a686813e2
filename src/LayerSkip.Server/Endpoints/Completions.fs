namespace LayerSkip.Server

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

    /// The tokens that an answer tells the log-probabilities of: the prompt's first, where it is echoed.
    let private scored (prompt: int[]) (ofPrompt: TokenLogProbs option[]) (tokens: TokenEvent list) = [
        for id, scores in Seq.zip prompt ofPrompt do
            { Id = id; Scores = scores }
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

        let echoOf (order: TextOrder) =
            Array.tryItem (order.Place / request.Writing.Count) echoes |> Option.defaultValue ""

        // How far each stream's text has come, for the places of its tokens.
        let offsets = Array.zeroCreate (request.Prompts.Length * request.Writing.Count)

        let choice (order: TextOrder) (text: string) start scored (finish: FinishReason option) json =
            (json: Utf8JsonWriter).WriteNumber("index", order.Place)
            json.WriteString("text", text)

            match request.LogProbs, tokenizer with
            | Some _, Some tokenizer -> LogProbsJson.ofCompletion tokenizer start scored json
            | _ -> json.WriteNull "logprobs"

            json |> JsonWrite.textOrNull "finish_reason" (finish |> Option.map FinishReason.name)

        let piece (order: TextOrder) (arrival: Arrival) json =
            let start = offsets[order.Place]
            offsets[order.Place] <- start + arrival.Text.Length
            let finish = arrival.End |> Option.map _.Finish
            choice order arrival.Text start (scored [||] [||] arrival.Tokens) finish json

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

                    choice
                        text.Order
                        (echoOf text.Order + written)
                        0
                        (scored completion.PromptIds completion.PromptLogProbs text.Tokens)
                        (Some completion.Finish)
            Open =
                fun order arrival -> [
                    if request.IsEchoed then
                        let text, scored = echoOf order, scored order.Prompt arrival.Prompt []

                        // As in a whole answer, tokens stand where those before them end.
                        offsets[order.Place] <-
                            match tokenizer with
                            | Some tokenizer when not scored.IsEmpty -> LogProbsJson.width tokenizer scored
                            | _ -> text.Length

                        choice order text 0 scored None
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

    let private prepare (service: Service) (request: CompletionRequest) =
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
        |> Result.bind (fun () -> prompts model request)
        |> Result.bind (fun prompts ->
            Service.plan service frame request.Writing prompts
            |> Result.map (fun plan -> form service request plan, prompts))

    /// Answers a request.
    let serve (service: Service) (context: HttpContext) : Task =
        Exchange.serve service context (CompletionRequest.read >> Result.bind (prepare service))
