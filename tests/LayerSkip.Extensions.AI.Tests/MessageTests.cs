using Expecto;
using Expecto.CSharp;
using LayerSkip.CSharp;
using LayerSkip.CSharp.Tests;
using LayerSkip.Extensions.AI;
using Microsoft.Extensions.AI;
using static LayerSkip.CSharp.Tests.Support;

namespace ChatClientTests;

internal static class MessageTests
{
    public static Test All { get; } = Runner.TestList("messages", [
        Case("texts, calls and results are turns of the model's template", async () =>
        {
            var turns = await Turns(
                new(ChatRole.System, "Rules."),
                new(ChatRole.User, [new TextContent("What "), new TextContent("time?")]),
                new(ChatRole.Assistant, [
                    new TextContent("I look."),
                    new TextReasoningContent("hm"),
                    new FunctionCallContent("id1", "clock", new Dictionary<string, object?> { ["zone"] = "UTC" }),
                    new FunctionCallContent("id2", "sun"),
                    new UsageContent(new())]),
                new(ChatRole.Tool, [
                    new FunctionResultContent("id2", new { up = true }),
                    new FunctionResultContent("id1", "12:00")]));
            Same(
                turns.Select(turn => (turn.Role, turn.Content)),
                [("system", "Rules."), ("user", "What time?"), ("assistant", "I look."), ("tool", """{"up":true}"""), ("tool", "12:00")],
                "who says what");
            Same(
                turns[2].ToolCalls.Select(call => (call.Id, call.Name, call.Arguments)),
                [("id1", "clock", """{"zone":"UTC"}"""), ("id2", "sun", "{}")],
                "calls");
            Same(turns.Skip(3).Select(turn => (turn.ToolCallId, turn.Name)), [("id2", "sun"), ("id1", "clock")], "whose results");
        }),
        Case("results are texts, JSON, nothing, or what went wrong", async () =>
        {
            object?[] results = [System.Text.Json.JsonSerializer.SerializeToElement("text"), 3, null];
            var turns = await Turns(
                new ChatMessage(ChatRole.Tool, [.. results.Select(result => new FunctionResultContent("x", result))]),
                new ChatMessage(ChatRole.Tool, [new FunctionResultContent("x", null) { Exception = new InvalidOperationException("no clock") }]));
            Same(turns.Select(turn => turn.Content), ["text", "3", "null", "Error: no clock"], "as the model reads them");
        }),
        Case("a role that only the template knows is handed on", async () =>
            Same((await Turns(new ChatMessage(new ChatRole("developer"), "x"))).Select(turn => turn.Role), ["developer"], "role")),
        Case("pictures and the like are refused by their kind", () =>
        {
            AIContent[] others = [new DataContent(new byte[] { 1 }, "image/png"), new UriContent("http://127.0.0.1/x.png", "image/png")];
            foreach (var other in others)
            {
                var fault = Throws<NotSupportedException>(() => new LayerSkipChatClient(new Scripted())
                    .GetStreamingResponseAsync([new(ChatRole.User, [other])]));
                True(fault.Message.Contains(other.GetType().Name, StringComparison.Ordinal), fault.Message);
            }

            Throws<ArgumentNullException>(() => new LayerSkipChatClient(new Scripted()).GetStreamingResponseAsync(null!));
            Throws<ArgumentNullException>(() => new LayerSkipChatClient(null!));
        }),
    ]);

    private static async Task<IReadOnlyList<ChatTurn>> Turns(params ChatMessage[] messages)
    {
        Scripted model = new(["a"]);
        await new LayerSkipChatClient(model).GetResponseAsync(messages);
        return model.Chats.Single().Turns;
    }
}
