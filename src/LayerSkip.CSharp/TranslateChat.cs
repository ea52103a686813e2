using Microsoft.FSharp.Collections;
using static LayerSkip.CSharp.Translate;

namespace LayerSkip.CSharp;

/// <summary>From this assembly's turns to the F# library's messages.</summary>
internal static class TranslateChat
{
    public static ChatRequest Request(IReadOnlyList<ChatTurn> turns, ChatPromptOptions options) =>
        new(
            messages: ListModule.OfSeq(turns.Select(Message)),
            tools: ListModule.OfSeq(options.Tools.Select(tool => new ChatTool(tool.Name, Optional(tool.Description), tool.Parameters))),
            addGenerationPrompt: options.BeginsAnswer,
            continueFinal: options.ContinuesLast,
            now: options.Now ?? DateTimeOffset.Now,
            extra: ListModule.OfSeq(options.Variables.Select(variable => Tuple.Create(variable.Key, variable.Value))));

    private static ChatMessage Message(ChatTurn turn) =>
        new(
            role: turn.Role,
            content: turn.Content,
            toolCalls: ListModule.OfSeq(turn.ToolCalls.Select(
                call => new LayerSkip.ToolCall(Optional(call.Id), call.Name, call.Arguments))),
            toolCallId: Optional(turn.ToolCallId),
            name: Optional(turn.Name));
}
