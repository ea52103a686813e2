using System.Text.Json;
using Expecto;
using Expecto.CSharp;
using LayerSkip.CSharp;
using LayerSkip.CSharp.Tests;
using LayerSkip.Extensions.AI;
using Microsoft.Extensions.AI;
using static LayerSkip.CSharp.Tests.Support;

namespace ChatClientTests;

/// <summary>With a model of random weights: what it says means nothing, but its form is kept.</summary>
internal static class ModelTests
{
    public static Test All(Tiny tiny) => Runner.TestList("a model", [
        Case("answers what it would without a client, and the same to each of many at once", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Chat);
            LayerSkipChatClient client = new(model);
            string Expected(int i) => model.Generate(
                model.EncodeChat([ChatTurn.User($"q{i}")]),
                new() { Strategy = Strategy.Autoregressive, MaxNewTokens = 12, StopTokenIds = model.Info.ChatStopTokenIds }).Text!;
            ChatOptions options = new() { MaxOutputTokens = 12, AdditionalProperties = new() { ["strategy"] = "self-speculative" } };
            var answers = await Task.WhenAll(Enumerable.Range(0, 8).Select(i => client.GetResponseAsync($"q{i}", options)));
            Same(answers.Select(answer => answer.Text), Enumerable.Range(0, 8).Select(Expected), "texts");
            True(answers.Sum(answer => answer.Usage!.AdditionalCounts!["drafted_tokens"]) > 0, "drafts are counted");
        }),
        Case("draws the same text by the same seed, and others without one", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Chat);
            LayerSkipChatClient client = new(model);
            async Task<string> Text(long? seed) =>
                (await client.GetResponseAsync("q", new() { Temperature = 1, MaxOutputTokens = 16, Seed = seed })).Text;
            Equal(await Text(3), await Text(3), "one seed");
            var drawn = await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Text(null)));
            True(drawn.Distinct().Count() > 1, "no seed");
        }),
        Case("calls a tool that it must call, with arguments that fit its schema", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Chat);
            LayerSkipChatClient client = new(model);
            List<int> given = [];
            var tool = AIFunctionFactory.Create((int n, bool b) => given.Add(n), "f");
            ChatOptions options = new()
            {
                Tools = [tool], ToolMode = ChatToolMode.RequireSpecific("f"), Temperature = 1, Seed = 5, MaxOutputTokens = 80,
            };
            var response = await client.GetResponseAsync("q", options);
            if (response.FinishReason == ChatFinishReason.Length)
            {
                return;
            }

            var call = (FunctionCallContent)response.Messages.Single().Contents.Single();
            Equal((call.Name, response.FinishReason), ("f", ChatFinishReason.ToolCalls), "called");
            Equal(((JsonElement)call.Arguments!["n"]!).ValueKind, JsonValueKind.Number, "a number");
        }),
        Case("keeps to a schema, whatever it would say", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Chat);
            LayerSkipChatClient client = new(model);
            var schema = JsonDocument.Parse(
                """{"type": "object", "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}}, "required": ["ok", "kind"], "additionalProperties": false}""");
            ChatOptions options = new() { ResponseFormat = ChatResponseFormat.ForJsonSchema(schema.RootElement), MaxOutputTokens = 60, Temperature = 1, Seed = 2 };
            var response = await client.GetResponseAsync("q", options);
            Equal(response.FinishReason, ChatFinishReason.Stop, "it ends by itself");
            var said = JsonDocument.Parse(response.Text).RootElement;
            True(said.GetProperty("ok").ValueKind is JsonValueKind.True or JsonValueKind.False, response.Text);
            True(said.GetProperty("kind").GetString() is "a" or "b", response.Text);
        }),
        Case("that has no chat template is refused with a code", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var fault = Throws<LayerSkipException>(() => new LayerSkipChatClient(model).GetStreamingResponseAsync("q"));
            Equal(fault.Code, LayerSkipErrorCode.NoChatTemplate, fault.Message);
        }),
        Case("whose template has no place for tools is not asked with some, whether it may or must call them", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.PlainChat);
            LayerSkipChatClient client = new(model);
            foreach (var mode in (ChatToolMode[])[ChatToolMode.Auto, ChatToolMode.RequireAny])
            {
                ChatOptions options = new() { Tools = [AIFunctionFactory.Create((int n) => n + 1, "inc")], ToolMode = mode, MaxOutputTokens = 4 };
                var fault = await ThrowsAsync<LayerSkipException>(() => client.GetResponseAsync("q", options));
                Equal((fault.Code, fault.OptionName), (LayerSkipErrorCode.ChatRefused, "Tools"), fault.Message);
            }

            ChatOptions none = new() { Tools = [AIFunctionFactory.Create(() => 1, "one")], ToolMode = ChatToolMode.None, MaxOutputTokens = 4 };
            Equal((await client.GetResponseAsync("q", none)).Usage!.InputTokenCount, 1, "which it is not told of");
        }),
        Case("is not asked without a message", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Chat);
            await ThrowsAsync<ArgumentException>(() => new LayerSkipChatClient(model).GetResponseAsync([], new() { Instructions = "be" }));
        }),
        Case("whose options are out of range says which", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Chat);
            var fault = await ThrowsAsync<LayerSkipException>(() => new LayerSkipChatClient(model).GetResponseAsync("q", new() { TopP = 2 }));
            Equal((fault.Code, fault.OptionName), (LayerSkipErrorCode.OptionOutOfRange, "TopP"), fault.Message);
        }),
    ]);
}
