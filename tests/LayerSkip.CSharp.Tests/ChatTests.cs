using System.Text.Json;
using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class ChatTests
{
    private static readonly ChatSessionOptions Short = new() { Generate = new() { MaxNewTokens = 4, Strategy = Strategy.SelfSpeculative } };

    public static Test All(Tiny tiny) => Runner.TestList("chat", [
        Case("an answer ends where the model ends its own, unless options say what ends it", () =>
        {
            ModelInfo info = new() { Name = "a", LayerCount = 2, VocabularySize = 9, ContextLength = 9, ChatStopTokenIds = [3, 4] };
            GenerateOptions options = new() { MaxNewTokens = 5 };
            Same(options.EndingAnswers(info).StopTokenIds!, [3, 4], "its own");
            Equal(options.EndingAnswers(info).MaxNewTokens, 5, "the rest stays");
            Same((options with { StopTokenIds = [1] }).EndingAnswers(info).StopTokenIds!, [1], "named");
            Equal((options with { IgnoreEos = true }).EndingAnswers(info).StopTokenIds, null, "none");
            Equal(options.EndingAnswers(info with { ChatStopTokenIds = [] }).StopTokenIds, null, "a model that has none");
            Throws<ArgumentNullException>(() => options.EndingAnswers(null!));
        }),
        Case("turns become tokens by the model's template, and nothing typed is special", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Chat);
            Equal(model.Info.ChatTemplate, Tiny.Template, "its template");
            Same(model.Info.ChatStopTokenIds, [257], "what ends an answer");
            string Shown(IReadOnlyList<ChatTurn> turns, ChatPromptOptions? options = null) =>
                model.Decode(model.EncodeChat(turns, options), showSpecial: true);
            ChatTurn[] turns = [ChatTurn.System("be"), ChatTurn.User("hi</s>")];
            Equal(Shown(turns), "<s>sbe</s><s>uhi</s></s><s>a", "spelled");
            Equal(model.EncodeChat(turns).Count(id => id == 257), 2, "two ends of turns, as the third is typed");
            Equal(Shown([ChatTurn.User("hi")], new() { BeginsAnswer = false }), "<s>uhi</s>", "no answer begun");
            Equal(Shown([ChatTurn.User("hi"), ChatTurn.Assistant("yo")], new() { ContinuesLast = true }), "<s>uhi</s><s>ayo", "an answer to go on with");
            ChatPromptOptions all = new()
            {
                Tools = [new() { Name = "look", Description = "Looks.", Parameters = """{"type":"object"}""" }],
                Variables = new Dictionary<string, JsonElement> { ["mood"] = JsonSerializer.SerializeToElement("glad") },
                Now = DateTimeOffset.UnixEpoch,
            };
            Equal(Shown([ChatTurn.User("hi")], all), "lookglad<s>uhi</s><s>a", "tools and variables");
            using var without = LayerSkipModel.Load(tiny.Path);
            Equal(Throws<LayerSkipException>(() => without.EncodeChat(turns)).Code, LayerSkipErrorCode.NoChatTemplate, "none");
        }),
        Case("a conversation goes on, is taken back, and is answered again", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Chat);
            ChatSession chat = new(model, Short with { SystemMessage = "be" });
            Same(chat.History, [ChatTurn.System("be")], "at first");
            var first = await chat.SendAsync("hi");
            Equal(first.Turn, ChatTurn.Assistant(first.Result.Text!), "the answer is a turn");
            var expected = model.Generate(
                model.EncodeChat([ChatTurn.System("be"), ChatTurn.User("hi")]), Short.Generate with { StopTokenIds = [257] });
            Equal(first.Result.Text, expected.Text, "as the model writes");
            var second = await chat.StreamAsync("so").ToList();
            Same(
                chat.History.Select(turn => turn.Role),
                ["system", "user", "assistant", "user", "assistant"],
                "who spoke");
            Equal(chat.History[^1].Content, second[^1].Result!.Text, "what was streamed");
            var again = await chat.RegenerateAsync(Short.Generate with { Temperature = 2, Seed = 9 });
            Equal(chat.History[^1].Content, again.Turn.Content, "another answer in its place");
            Equal(chat.History.Count, 5, "as many turns");
            Equal((chat.Undo(), chat.History.Count), (true, 3), "the second question is gone");
            Equal((chat.Undo(), chat.Undo(), chat.History.Count), (true, false, 1), "and the first");
            Throws<InvalidOperationException>(() => chat.RegenerateAsync().GetAwaiter().GetResult());
            await chat.SendAsync("hi");
            chat.Clear();
            Same(chat.History, [ChatTurn.System("be")], "as at first");
        }),
        Case("a turn that is left, cancelled or refused leaves the conversation as it was, and one goes on at a time", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Chat);
            ChatSession chat = new(model, Short);
            await foreach (var _ in chat.StreamAsync("hi"))
            {
                Throws<InvalidOperationException>(() => chat.Undo());
                Throws<InvalidOperationException>(() => chat.SendAsync("two").GetAwaiter().GetResult());
                break;
            }

            Equal(chat.History.Count, 0, "left");
            await Cancelled(() => chat.SendAsync("hi", new CancellationToken(canceled: true)));
            var full = Throws<LayerSkipException>(() => chat.SendAsync(new string('x', 100)).GetAwaiter().GetResult());
            Equal((full.Code, chat.History.Count), (LayerSkipErrorCode.ContextFull, 0), "refused");
            Equal((await chat.SendAsync([ChatTurn.User("a"), ChatTurn.User("b")])).Result.TokenIds.Count <= 4, true, "and goes on");
            Throws<ArgumentNullException>(() => new ChatSession(null!));
        }),
        Case("tools that the template has no place for, and a chat without a message, are refused", () =>
        {
            using var model = LayerSkipModel.Load(tiny.PlainChat);
            ChatPromptOptions tools = new() { Tools = [new() { Name = "look" }] };
            var thrown = Throws<LayerSkipException>(() => model.EncodeChat([ChatTurn.User("hi")], tools));
            Equal((thrown.Code, thrown.OptionName), (LayerSkipErrorCode.ChatRefused, "Tools"), thrown.Message);
            Refused(() => model.EncodeChat([ChatTurn.User("hi")], tools), "no place for them");
            Refused(() => model.EncodeChat([]), "no message");
            Equal(model.EncodeChat([ChatTurn.User("hi")]).Length, 2, "without them");
        }),
        Case("where the context is full the oldest turns are told no more, or the turn is refused", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Chat);
            var options = Short with { SystemMessage = "be" };
            ChatSession chat = new(model, options);
            ChatReply reply = await chat.SendAsync("question 0");
            Equal((reply.DroppedTurnCount, chat.DroppedTurnCount), (0, 0), "there is room");
            for (var number = 1; number < 9; number++)
            {
                reply = await chat.SendAsync($"question {number}");
                Equal(reply.DroppedTurnCount, chat.DroppedTurnCount, "told");
                ChatTurn[] told = [chat.History[0], .. chat.History.Skip(1 + reply.DroppedTurnCount).SkipLast(1)];
                Equal(told[1].Role, "user", "from a question on");
                Same(reply.Result.PromptIds, model.EncodeChat(told), "what the model was told");
                True(reply.Result.PromptIds.Count + 4 <= 96, "with room for the answer");
                if (reply.DroppedTurnCount > 0)
                {
                    ChatTurn[] more = [told[0], .. chat.History.Skip(reply.DroppedTurnCount - 1).Take(2), .. told[1..]];
                    True(model.EncodeChat(more).Length + 4 > 96, "and no more was dropped than need be");
                }
            }

            True(reply.DroppedTurnCount > 0, "some were");
            Equal(chat.History.Count, 1 + 2 * 9, "all is in the history");
            Equal((await chat.RegenerateAsync()).DroppedTurnCount, reply.DroppedTurnCount, "again");

            var saved = chat.History;
            var onward = ChatSession.FromHistory(model, saved, options);
            Same(onward.History, saved, "as it was saved");
            Same((await onward.SendAsync("and")).Result.PromptIds, (await chat.SendAsync("and")).Result.PromptIds, "and goes on alike");
            Same(ChatSession.FromHistory(model, [ChatTurn.User("a")], options).History, [ChatTurn.System("be"), ChatTurn.User("a")], "the options' system message");
            while (chat.Undo())
            {
                True(chat.DroppedTurnCount < chat.History.Count, "no more than there are");
            }

            onward.Clear();
            Equal((chat.DroppedTurnCount, onward.DroppedTurnCount, onward.History.Count), (0, 0, 1), "none of nothing");

            var strict = ChatSession.FromHistory(model, saved, options with { WhenFull = FullContext.Throw });
            var full = await ThrowsAsync<LayerSkipException>(() => strict.SendAsync("and"));
            Equal((full.Code, strict.History.Count), (LayerSkipErrorCode.ContextFull, saved.Count), "refused");
            Throws<ArgumentNullException>(() => ChatSession.FromHistory(model, null!));
        }),
        Case("calls of tools are turns, and their answers go back", async () =>
        {
            await using var parrot = new MockTests.Parrot();
            ChatSession chat = new(parrot, new() { Prompt = new() { Tools = [new() { Name = "look" }] } });
            var reply = await chat.SendAsync("""<tool_call>{"name": "look", "arguments": {"at": 3}}</tool_call>""");
            ToolCall call = reply.Turn.ToolCalls.Single();
            Equal((call.Name, call.Arguments, call.Id), ("look", """{"at": 3}""", null), "the call");
            var answer = ChatTurn.Tool(call with { Id = "c1" }, "a bird");
            Equal((answer.Role, answer.Name, answer.ToolCallId), ("tool", "look", "c1"), "its answer");
            await foreach (var _ in chat.StreamAsync([answer]))
            {
            }

            Equal(chat.History.Count, 4, "in the conversation");
            Equal(ChatTurn.OfAnswer("no call").Content, "no call", "a text is a text");
            ToolCallStream stream = new();
            Equal(stream.Push("So: <tool"), "So: ", "what may be a call is held");
            Equal(stream.Push("box> <tool_call>{"), "<toolbox> ", "until it is known");
            Equal((stream.Push("}"), stream.Held), ("", "<tool_call>{}"), "a call is held to its end");
            Equal((await chat.SendAsync("plain")).Turn.ToolCalls.Count, 0, "without a call");
            ToolDefinition tool = new() { Name = "look", Description = "Looks.", Parameters = "{}" };
            Equal((tool.Name, tool.Description, tool.Parameters), ("look", "Looks.", "{}"), "as made");
            ChatTurn said = new() { Role = "user", Content = "x", Name = "Ann", ToolCalls = [call], ToolCallId = "1" };
            Equal((said.Name, said.ToolCalls.Count), ("Ann", 1), "as made");
        }),
    ]);
}
