/// OpenAI's own client for .NET against the server.
module LayerSkip.Server.Tests.OpenAITests

open System
open System.ClientModel
open System.Text.Json
open Expecto
open OpenAI
open OpenAI.Chat
open OpenAI.Models
open LayerSkip.Server.Tests.ServerSupport

let private settings (retries: int) =
    let address = Uri((ChatTests.server.Force()).BaseAddress, "/v1")

    OpenAIClientOptions(
        Endpoint = address,
        RetryPolicy = System.ClientModel.Primitives.ClientRetryPolicy retries,
        NetworkTimeout = TimeSpan.FromMinutes 2.0
    )

let private chat (model: string) = ChatClient(model, ApiKeyCredential "none", settings 0)

let private messages: ChatMessage list = [ SystemChatMessage "Be kind."; UserChatMessage "Tell me of a dog." ]

let private greedy (tokens: int) =
    ChatCompletionOptions(MaxOutputTokenCount = Nullable tokens, Temperature = Nullable 0.0f)

let private textOf (content: ChatMessageContent) = content |> Seq.map _.Text |> String.Concat

[<Tests>]
let tests =
    testList "OpenAI for .NET" [
        testCase "it completes, and streams the same" (fun () ->
            let whole = (chat "stories-10m").CompleteChat(messages, greedy 30).Value
            let expected = ChatTests.offlineAnswer ChatTests.messages 30
            Expect.equal (textOf whole.Content) expected.Text.Value "text"
            Expect.equal whole.FinishReason ChatFinishReason.Length "reason"
            Expect.equal whole.Usage.OutputTokenCount 30 "tokens"
            Expect.equal whole.Usage.InputTokenCount expected.PromptIds.Length "the prompt's"

            let updates = (chat "stories-10m").CompleteChatStreaming(messages, greedy 30) |> List.ofSeq
            let streamed = updates |> List.map (_.ContentUpdate >> textOf) |> String.Concat
            Expect.equal streamed expected.Text.Value "streamed"
            Expect.isGreaterThan updates.Length 2 "in pieces"

            let ends = updates |> List.choose (fun update -> Option.ofNullable update.FinishReason)
            Expect.equal ends [ ChatFinishReason.Length ] "one end"
            Expect.equal (List.last updates).Usage.OutputTokenCount 30 "usage comes last")

        testCase "a schema is kept, a tool is called, and log-probabilities come" (fun () ->
            let schema =
                """{"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "ok": {"type": "boolean"}}, "required": ["n", "ok"], "additionalProperties": false}"""
            let options = greedy 60

            options.ResponseFormat <-
                ChatResponseFormat.CreateJsonSchemaFormat(
                    "answer",
                    BinaryData.FromString schema,
                    null,
                    Nullable true
                )

            let written = textOf ((chat "stories-10m").CompleteChat(messages, options).Value.Content)
            let json = JsonDocument.Parse(written).RootElement
            Expect.isLessThan (number "n" json) 10 written

            let options = greedy 200
            let parameters =
                """{"type": "object", "properties": {"where": {"enum": ["here", "there"]}}, "required": ["where"], "additionalProperties": false}"""
            options.Tools.Add(
                ChatTool.CreateFunctionTool("look", "Looks.", BinaryData.FromString parameters)
            )
            options.ToolChoice <- ChatToolChoice.CreateRequiredChoice()
            options.AllowParallelToolCalls <- Nullable false
            let called = (chat "stories-10m").CompleteChat(messages, options).Value
            Expect.equal called.FinishReason ChatFinishReason.ToolCalls "it calls"
            Expect.equal (called.ToolCalls |> Seq.map _.FunctionName |> List.ofSeq) [ "look" ] "the tool"

            let options = greedy 5
            options.IncludeLogProbabilities <- Nullable true
            options.TopLogProbabilityCount <- Nullable 3
            let scored = (chat "stories-10m").CompleteChat(messages, options).Value
            Expect.hasLength scored.ContentTokenLogProbabilities 5 "each token"

            for token in scored.ContentTokenLogProbabilities do
                Expect.hasLength token.TopLogProbabilities 3 "the likeliest")

        testCase "it lists the model, and reads what is refused" (fun () ->
            let models = OpenAIModelClient(ApiKeyCredential "none", settings 0).GetModels().Value
            Expect.equal (models |> Seq.map _.Id |> List.ofSeq) [ "stories-10m" ] "models"

            try
                (chat "another").CompleteChat(messages, greedy 3) |> ignore
                failtest "another model is served"
            with :? ClientResultException as refused ->
                Expect.equal refused.Status 404 "status"
                Expect.stringContains refused.Message "model_not_found" "its code")
    ]
