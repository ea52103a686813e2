using Expecto;
using Expecto.CSharp;
using LayerSkip.CSharp;
using LayerSkip.CSharp.Tests;
using LayerSkip.Extensions.AI;
using Microsoft.Extensions.AI;
using static LayerSkip.CSharp.Tests.Support;

namespace ChatClientTests;

internal static class ToolTests
{
    private const string Call = """<tool_call>{"name": "clock", "arguments": {"zone": "UTC", "deep": [1, null]}}</tool_call>""";

    private static readonly AIFunction Clock = AIFunctionFactory.Create((string zone) => $"12:00 {zone}", "clock", "tells the time");
    private static readonly AIFunction Sun = AIFunctionFactory.Create(() => true, "sun");

    public static Test All { get; } = Runner.TestList("tools", [
        Case("are told to the model with their schemas, but where the mode is none", async () =>
        {
            var (model, _) = await Ask(["a"], new() { Tools = [Clock, Sun] });
            var told = model.Chats.Single().Prompt.Tools;
            Same(told.Select(tool => (tool.Name, tool.Description)), [("clock", "tells the time"), ("sun", null)], "names");
            True(told[0].Parameters.Contains("zone", StringComparison.Ordinal), told[0].Parameters);
            True(model.Asked.Single().ShowSpecial, "marks of calls may be special tokens");
            var (none, _) = await Ask([Call], new() { Tools = [Clock], ToolMode = ChatToolMode.None });
            Equal(none.Chats.Single().Prompt.Tools.Count, 0, "none");
        }),
        Case("are called where the answer says so; text before a call streams, the call does not", async () =>
        {
            LayerSkipChatClient client = new(new Scripted(["I ", "look.\n", "<tool", Call[5..20], Call[20..]]));
            List<ChatResponseUpdate> updates = [];
            await foreach (var update in client.GetStreamingResponseAsync("time?", new() { Tools = [Clock] }))
            {
                updates.Add(update);
            }

            Same(updates.Select(update => update.Text), ["I ", "look.\n", "", ""], "texts");
            var call = (FunctionCallContent)updates[^2].Contents.Single();
            Equal((call.Name, $"{call.Arguments!["zone"]}"), ("clock", "UTC"), "which");
            True(call.CallId is { Length: 9 } id && id.All(char.IsAsciiLetterOrDigit), "an id that every template takes");
            Equal(updates[^1].FinishReason, ChatFinishReason.ToolCalls, "why it ended");
        }),
        Case("are called several at once, or one where no more are allowed", async () =>
        {
            foreach (var (allow, count) in new (bool?, int)[] { (null, 2), (true, 2), (false, 1) })
            {
                var (_, response) = await Ask([Call, Call], new() { Tools = [Clock], AllowMultipleToolCalls = allow });
                var calls = response.Messages.SelectMany(message => message.Contents).OfType<FunctionCallContent>().ToArray();
                Equal(calls.Length, count, $"{allow}");
                Equal(calls.Select(call => call.CallId).Distinct().Count(), count, "each with an id of its own");
            }
        }),
        Case("leave text that is no call as it is, however it is cut into pieces", async () =>
        {
            string[] texts =
            [
                "a < b and <b>bold</b>", "<tool", "{}", "[x]", " { \"a\": 1 }", "x {\"name\": 1}", "", "<|python", "[TOOL", "<<<<tool_cal", "`code`",
            ];
            Random random = new(5);
            foreach (var text in texts)
            {
                for (var i = 0; i < 20; i++)
                {
                    var pieces = text.Length == 0 ? [""] : Cut(text, random);
                    var (_, response) = await Ask(pieces, new() { Tools = [Clock] });
                    Equal(response.Text, text, string.Join('|', pieces));
                    Equal(response.FinishReason, ChatFinishReason.Stop, text);
                }
            }
        }),
        Case("that must be called leave nothing else to say: the schema is theirs", async () =>
        {
            var (model, response) = await Ask(
                ["""{"name": "clock", """, """ "arguments": {"zone": "CET"}}"""], new() { Tools = [Clock, Sun], ToolMode = ChatToolMode.RequireAny });
            var call = (FunctionCallContent)response.Messages.Single().Contents.Single();
            Equal((call.Name, $"{call.Arguments!["zone"]}"), ("clock", "CET"), "which");
            Equal((response.Text, response.FinishReason), ("", ChatFinishReason.ToolCalls), "nothing else");
            True(model.Asked.Single().ResponseFormat is not null, "a form");
        }),
        Case("that a limit cuts are text, and say so", async () =>
        {
            Scripted model = new([["""{"name": "clo"""]]) { Finish = FinishReason.Length };
            var response = await new LayerSkipChatClient(model)
                .GetResponseAsync("time?", new() { Tools = [Clock], ToolMode = ChatToolMode.RequireAny });
            Equal((response.Text, response.FinishReason), ("""{"name": "clo""", ChatFinishReason.Length), "cut");
        }),
        Case("and JSON: a call, or what was asked for", async () =>
        {
            foreach (var format in new[] { ChatResponseFormat.Json, ChatResponseFormat.ForJsonSchema<int>() })
            {
                ChatOptions options = new() { Tools = [Clock], ResponseFormat = format };
                var (_, called) = await Ask(["""{"name": "clock", "arguments": {}}"""], options);
                Equal(called.FinishReason, ChatFinishReason.ToolCalls, "a call");
                var (_, said) = await Ask(["{\"a\"", ": 1}"], options);
                Equal((said.Text, said.FinishReason), ("{\"a\": 1}", ChatFinishReason.Stop), "an answer");
            }
        }),
        Case("keep what their schemas refer to", () =>
        {
            var schema = System.Text.Json.JsonDocument.Parse(
                """{"$schema": "x", "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"items": [{"$ref": "#"}]}}, "$defs": {"A": {"type": "string"}}}""");
            var moved = Schemas.Inside("/anyOf/1", schema.RootElement).ToJsonString();
            Equal(
                moved,
                """{"properties":{"a":{"$ref":"#/anyOf/1/$defs/A"},"b":{"items":[{"$ref":"#/anyOf/1"}]}},"$defs":{"A":{"type":"string"}}}""",
                "deeper by as much");
        }),
    ]);

    private static string[] Cut(string text, Random random)
    {
        List<string> pieces = [];
        for (var at = 0; at < text.Length;)
        {
            var length = random.Next(1, 4);
            pieces.Add(text[at..Math.Min(text.Length, at + length)]);
            at += length;
        }

        return [.. pieces];
    }

    private static async Task<(Scripted Model, ChatResponse Response)> Ask(string[] pieces, ChatOptions options)
    {
        Scripted model = new([pieces]);
        return (model, await new LayerSkipChatClient(model).GetResponseAsync("time?", options));
    }
}
