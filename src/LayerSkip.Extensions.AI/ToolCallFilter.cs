using System.Text;

namespace LayerSkip.Extensions.AI;

/// <summary>
/// Lets an answer's text through as it comes, up to where a tool call may begin; what follows is held, since calls are read from the
/// whole text.
/// </summary>
internal sealed class ToolCallFilter
{
    // What the families of models begin calls with, anywhere in an answer.
    private static readonly string[] Marks = ["<tool_call", "<|python_tag|>", "[TOOL_CALLS]", "<function="];

    // Bare JSON is a call at an answer's beginning alone.
    private static readonly string[] Beginnings = ["{", "[{", "```"];

    private readonly StringBuilder all = new();
    private int released;
    private bool isHeld;

    /// <summary>All that has come.</summary>
    public string Text => all.ToString();

    /// <summary>What of it has been let through.</summary>
    public string Released => all.ToString(0, released);

    /// <summary>The text that is let through now that this has come too.</summary>
    public string Add(string text)
    {
        all.Append(text);
        if (isHeld)
        {
            return "";
        }

        var (whole, end) = (Text, released);
        while (end < whole.Length && !MayBegin(whole, end))
        {
            end++;
        }

        isHeld = end < whole.Length && Begins(whole, end);
        var passed = whole[released..end];
        released = end;
        return passed;
    }

    private static bool IsFirst(string text, int at) => string.IsNullOrWhiteSpace(text[..at]);

    private static bool MayBegin(string text, int at) =>
        MatchesSoFar(Marks, text, at) || (IsFirst(text, at) && MatchesSoFar(Beginnings, text, at));

    private static bool Begins(string text, int at) =>
        Matches(Marks, text, at) || (IsFirst(text, at) && Matches(Beginnings, text, at));

    private static bool MatchesSoFar(string[] marks, string text, int at) =>
        marks.Any(mark => text.AsSpan(at).StartsWith(mark) || mark.AsSpan().StartsWith(text.AsSpan(at)));

    private static bool Matches(string[] marks, string text, int at) => marks.Any(mark => text.AsSpan(at).StartsWith(mark));
}
