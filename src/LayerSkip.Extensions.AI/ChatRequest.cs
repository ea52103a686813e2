using System.Globalization;
using System.Text.Json.Nodes;
using LayerSkip.CSharp;
using Microsoft.Extensions.AI;

namespace LayerSkip.Extensions.AI;

/// <summary>A request as a model is given it: the prompt's tokens, how to go on, and how to read what comes.</summary>
internal sealed class ChatRequest
{
    private readonly Func<ChatAnswer> answer;

    private ChatRequest(IReadOnlyList<int> promptIds, GenerateOptions options, Func<ChatAnswer> answer) =>
        (PromptIds, Options, this.answer) = (promptIds, options, answer);

    public IReadOnlyList<int> PromptIds { get; }

    public GenerateOptions Options { get; }

    /// <summary>What reads the answer.</summary>
    public ChatAnswer Answer() => answer();

    /// <summary>Checks all of a request; nothing is computed yet.</summary>
    public static ChatRequest Of(
        IChatClient client,
        ILayerSkipModel model,
        LayerSkipChatClientOptions settings,
        string modelId,
        IEnumerable<ChatMessage> messages,
        ChatOptions? options)
    {
        Refuse(options, modelId);
        var tools = ToolSet.Of(options);
        var prompt = ChatPrompts.Encode(model, options?.Instructions, messages, tools, options?.Reasoning?.Effort);
        var generate = Generate(client, settings, options).EndingAnswers(model.Info);
        var mustCall = options?.ToolMode as RequiredChatToolMode;
        var json = options?.ResponseFormat as ChatResponseFormatJson;

        if (mustCall is not null)
        {
            var format = Format(tools.CallSchema(mustCall.RequiredFunctionName));
            return new(prompt, generate with { ResponseFormat = format }, () => new AnswerInJson(tools));
        }

        if (json is not null && tools.Tools.Count > 0)
        {
            return new(prompt, generate with { ResponseFormat = Format(CallOr(tools, json)) }, () => new AnswerInJson(tools));
        }

        if (json is not null)
        {
            var format = json.Schema is { } schema ? ResponseFormat.JsonSchema(schema.GetRawText()) : ResponseFormat.JsonObject;
            return new(prompt, generate with { ResponseFormat = format }, () => ChatAnswer.Plain);
        }

        return tools.Tools.Count > 0
            // Some families' marks are special tokens.
            ? new(prompt, generate with { ShowSpecial = true }, () => new AnswerWithTools(tools))
            : new(prompt, generate, () => ChatAnswer.Plain);
    }

    private static void Refuse(ChatOptions? options, string modelId)
    {
        if (options?.ModelId is { } other && other != modelId)
        {
            throw new NotSupportedException($"ModelId is {other}, and this client has {modelId} alone; make a client of the other model");
        }

        if (options?.ConversationId is not null)
        {
            throw new NotSupportedException(
                "ConversationId: this client keeps no conversations; leave it out, and send the whole history, whose known part is not computed again");
        }

#pragma warning disable MEAI001 // Refused, whatever becomes of it.
        if (options?.ContinuationToken is not null)
#pragma warning restore MEAI001
        {
            throw new NotSupportedException("ContinuationToken: no answer of this client goes on in the background; leave it out");
        }
    }

    /// <summary>What is said for all requests, then what the raw options say, then the request's own.</summary>
    private static GenerateOptions Generate(IChatClient client, LayerSkipChatClientOptions settings, ChatOptions? options)
    {
        var raw = options?.RawRepresentationFactory?.Invoke(client) as GenerateOptions;
        var given = raw ?? settings.Generate;
        given = given with
        {
            MaxNewTokens = options?.MaxOutputTokens ?? raw?.MaxNewTokens ?? settings.MaxOutputTokens,
            Temperature = AsWritten(options?.Temperature) ?? given.Temperature,
            TopP = AsWritten(options?.TopP) ?? given.TopP,
            TopK = options?.TopK ?? given.TopK,
            FrequencyPenalty = AsWritten(options?.FrequencyPenalty) ?? given.FrequencyPenalty,
            PresencePenalty = AsWritten(options?.PresencePenalty) ?? given.PresencePenalty,
            Seed = options?.Seed ?? raw?.Seed ?? Random.Shared.NextInt64(),
            StopTexts = options?.StopSequences is { Count: > 0 } stops ? [.. stops] : given.StopTexts,
        };
        return Extras.Apply(given, options?.AdditionalProperties);
    }

    // 0.7f is 0.7, not 0.699999988.
    private static double? AsWritten(float? value) =>
        value is { } number ? double.Parse(number.ToString("R", CultureInfo.InvariantCulture), CultureInfo.InvariantCulture) : null;

    /// <summary>A call of a tool, or what is asked for.</summary>
    private static JsonObject CallOr(ToolSet tools, ChatResponseFormatJson json)
    {
        var whole = tools.CallSchema(null);
        var choices = whole["anyOf"]!.AsArray();
        choices.Add(json.Schema is { } schema
            ? Schemas.Inside($"/anyOf/{choices.Count}", schema)
            : new JsonObject { ["type"] = "object" });
        return whole;
    }

    private static ResponseFormat Format(JsonObject schema) => ResponseFormat.JsonSchema(schema.ToJsonString());
}
