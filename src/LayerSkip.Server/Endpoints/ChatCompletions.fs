namespace LayerSkip.Server

open System
open System.Text.Json
open System.Threading.Tasks
open Microsoft.AspNetCore.Http
open LayerSkip

/// `/v1/chat/completions`.
[<RequireQualifiedAccess>]
module internal ChatCompletions =
    /// The calls with a name for each that has none, which the tool's answer names it by.
    let private withIds (isParallel: bool) (calls: ToolCall list) : ToolCall list =
        (if isParallel then calls else List.truncate 1 calls)
        |> List.map (fun call -> {
            call with
                Id = Some(call.Id |> Option.defaultWith (fun () -> $"call_{Guid.NewGuid():N}"))
        })

    /// "tool_calls"; in a stream each has its place.
    let private toolCalls (isPiece: bool) (calls: ToolCall list) (json: Utf8JsonWriter) : unit =
        json
        |> JsonWrite.objects "tool_calls" (List.indexed calls) (fun (place, call) ->
            if isPiece then
                json.WriteNumber("index", place)

            json |> JsonWrite.textOrNull "id" call.Id
            json.WriteString("type", "function")

            json
            |> JsonWrite.object "function" (fun _ ->
                json.WriteString("name", call.Name)
                json.WriteString("arguments", call.Arguments)))

    let private finish (calls: ToolCall list) (reason: FinishReason) : string =
        if calls.IsEmpty then
            FinishReason.name reason
        else
            "tool_calls"

    let private scores
        (service: Service)
        (request: ChatCompletionRequest)
        (tokens: TokenEvent list)
        json
        : unit =
        match request.LogProbs, service.Model.Checkpoint.Tokenizer with
        | Some _, Some tokenizer ->
            let scored = [ for token in tokens -> { Id = token.Id; Scores = token.LogProbs } ]
            LogProbsJson.ofChat tokenizer scored json
        | _ -> json.WriteNull "logprobs"

    let private whole
        service
        (request: ChatCompletionRequest)
        (text: DoneText)
        (json: Utf8JsonWriter)
        : unit =
        let written = text.Completion.Text |> Option.defaultValue ""

        let content, calls =
            if request.Chat.Tools.IsEmpty then
                written, []
            else
                let content, calls = Chat.toolCalls written
                content, withIds request.IsParallel calls

        json.WriteNumber("index", text.Order.Place)

        json
        |> JsonWrite.object "message" (fun _ ->
            json.WriteString("role", "assistant")

            if content = "" && not calls.IsEmpty then
                json.WriteNull "content"
            else
                json.WriteString("content", content)

            json.WriteNull "refusal"

            if not calls.IsEmpty then
                json |> toolCalls false calls)

        scores service request text.Tokens json
        json.WriteString("finish_reason", finish calls text.Completion.Finish)

    let private piece
        service
        (request: ChatCompletionRequest)
        place
        tokens
        delta
        (finish: string option)
        json
        =
        (json: Utf8JsonWriter).WriteNumber("index", (place: int))
        json |> JsonWrite.object "delta" (fun _ -> delta json)
        scores service request tokens json
        json |> JsonWrite.textOrNull "finish_reason" finish

    let private form (service: Service) (request: ChatCompletionRequest) (plan: WritingPlan) : AnswerForm =
        // What each text's stream has told; an arrival is asked for once.
        let streams = Array.create request.Writing.Count ToolStream.start

        /// The text that is certain with an arrival, and the calls where it is the last.
        let read (order: TextOrder) (arrival: Arrival) : string * ToolCall list =
            if request.Chat.Tools.IsEmpty then
                arrival.Text, []
            else
                let struct (certain, stream) = ToolStream.push arrival.Text streams[order.Place]
                streams[order.Place] <- stream

                if arrival.End.IsSome then
                    let rest, calls = ToolStream.finish stream
                    certain + rest, withIds request.IsParallel calls
                else
                    certain, []

        let pieces (order: TextOrder) (arrival: Arrival) =
            let text, calls = read order arrival
            let isLast = arrival.End.IsSome

            let delta (json: Utf8JsonWriter) =
                if text <> "" then
                    json.WriteString("content", text)

                if not calls.IsEmpty then
                    json |> toolCalls true calls

            [
                if text <> "" || isLast || request.LogProbs.IsSome || request.Writing.TellsOrigins then
                    fun json ->
                        let finish = arrival.End |> Option.map (fun text -> finish calls text.Finish)
                        piece service request order.Place arrival.Tokens delta finish json

                        if request.Writing.TellsOrigins then
                            AnswerHead.origins arrival json
            ]

        {
            Head = AnswerHead.create "chatcmpl" service.Model.Name
            Plan = plan
            Writing = request.Writing
            Kind = "chat.completion"
            PieceKind = "chat.completion.chunk"
            Whole = whole service request
            Open =
                fun order _ -> [
                    piece
                        service
                        request
                        order.Place
                        []
                        (fun json ->
                            json.WriteString("role", "assistant")
                            json.WriteString("content", ""))
                        None
                ]
            Piece = pieces
        }

    /// The grammar of an answer that must call a tool.
    let private calls (model: ServedModel) (request: ChatCompletionRequest) : AskedGrammar option =
        let ofTools (tools: ChatTool list) =
            let tools = tools |> List.map (fun tool -> tool.Name, tool.Parameters)

            Some {
                Name =
                    JsonSerializer.Serialize [
                        for name, schema in tools -> [ name; schema; string request.IsParallel ]
                    ]
                Field = "tools"
                Make =
                    fun () ->
                        Chat.template model.Checkpoint
                        |> Result.bind (fun template ->
                            let form = ToolGrammar.formOf (ChatTemplate.source template)
                            ToolGrammar.create form request.IsParallel tools)
            }

        match request.ToolChoice with
        | ToolChoice.Auto
        | ToolChoice.Never -> None
        | ToolChoice.Some -> ofTools request.Chat.Tools
        | ToolChoice.One name -> request.Chat.Tools |> List.filter (fun tool -> tool.Name = name) |> ofTools

    /// What the chat template is given; where one is at fault there is no prompt to be judged.
    let private conversation = [
        "messages"
        "tools"
        "chat_template_kwargs"
        "continue_final_message"
        "add_generation_prompt"
    ]

    let private prepare (service: Service) (reader: RequestReader) =
        let model, request = service.Model, ChatCompletionRequest.read reader

        let frame = {
            Drafting = service.Options.Drafting
            StopIds = model.ChatStopIds
            MaxTokens = Int32.MaxValue
            LogProbs = request.LogProbs
            PromptLogProbs = None
            Grammar =
                if List.forall reader.IsSound [ "tools"; "tool_choice" ] then
                    calls model request
                else
                    None
        }

        let prompts () =
            if List.forall reader.IsSound conversation then
                ChatPrompt.ids service request.Chat |> Result.map List.singleton
            else
                Ok []

        model.Check request.Writing.Model
        |> Result.bind (fun () -> prompts () |> Service.plan service frame request.Writing)
        |> Result.map (fun (plan, prompts) -> form service request plan, prompts)
        |> reader.Result

    /// Answers a request.
    let serve (service: Service) (context: HttpContext) : Task =
        Exchange.serve service context (fun root -> prepare service (RequestReader root))
