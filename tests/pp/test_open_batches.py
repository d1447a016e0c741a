"""Files of several labs, opened: genes aligned, counts normalised, variable genes found, reads counted."""

from collections import Counter

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from dask.utils import key_split
from helpers import no_compute, told
from scipy import sparse

import mnndask
from mnndask.cli.main import main
from mnndask.errors import GenesError, InputError, InputKeyError, InputTypeError, NonFiniteError
from mnndask.pp import open_batches
from mnndask.stores.block_reader import BlockReader

N_GENES = 300
NAMES = ["lab_a", "lab_b", "lab_c"]
LAYOUTS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda X: X.toarray()}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*genes are in all files"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),  # of scanpy, for pandas 4
]


def lab(i, n=90, *, dtype="float32"):
    """Raw counts of one lab, whose genes are others than those of other labs, and in another order."""
    rng = np.random.default_rng(i)
    profiles = np.random.default_rng(99).gamma(0.4, 3, (3, N_GENES))
    effect = rng.gamma(10, 0.1, N_GENES)
    mean = profiles[rng.integers(3, size=n)] * effect * rng.gamma(5, 0.2, (n, 1))
    X = sparse.csr_matrix(rng.poisson(mean).astype(dtype))
    genes = rng.permutation(N_GENES)[: N_GENES - 20 * i]
    names = [f"gene{j}" for j in genes]
    obs = pd.DataFrame({"depth": np.arange(n)}, index=[f"cell{j}" for j in range(n)])
    var = pd.DataFrame(
        {"symbol": [name.upper() for name in names], "mean": np.arange(len(genes))}, index=names
    )
    out = ad.AnnData(X[:, genes], obs=obs, var=var)
    out.varm["loadings"] = np.arange(2.0 * len(genes)).reshape(-1, 2)
    out.obsm["X_spatial"] = np.arange(2.0 * n).reshape(-1, 2)
    return out


@pytest.fixture
def labs(tmp_path):
    """Three labs in memory, and the files that hold them."""
    adatas = [lab(i) for i in range(3)]
    paths = [tmp_path / f"lab_{name}.h5ad" for name in "abc"]
    for adata, path in zip(adatas, paths, strict=True):
        adata.write_h5ad(path)
    return adatas, paths


def in_memory(adatas, n_top=None):
    """What scanpy makes of the same labs in memory: each normalised, then joined."""
    out = []
    for adata in adatas:
        one = adata.copy()
        one.layers["counts"] = one.X.copy()
        sc.pp.normalize_total(one, target_sum=1e4)
        sc.pp.log1p(one)
        out.append(one)
    shared = [name for name in out[0].var_names if all(name in one.var_names for one in out)]
    whole = ad.concat(
        [one[:, shared] for one in out], label="batch", keys=["lab_a", "lab_b", "lab_c"], index_unique="-"
    )
    if n_top is not None:
        sc.pp.highly_variable_genes(whole, flavor="seurat", batch_key="batch", n_top_genes=n_top)
    return whole


@pytest.fixture
def reads(monkeypatch):
    """Counts how often each row of each stored expression matrix is read, by its file."""
    counter, read = Counter(), BlockReader._read

    def counting(self, stored, region):
        if self.name in {"X", "layers/counts"}:
            counter[self.label, self.name] += region[0].stop - region[0].start
        return read(self, stored, region)

    monkeypatch.setattr(BlockReader, "_read", counting)
    return counter


def run(*words):
    """Run the command to its end, which is a success."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    assert ended.value.code == 0


def dense(X):
    X = X.compute()
    return X.toarray() if sparse.issparse(X) else X


# ---------------------------------------------------------------- genes and counts


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_genes_are_aligned_by_name_and_counts_normalised(tmp_path, layout, suffix):
    adatas, paths = [lab(i) for i in range(3)], []
    for name, adata in zip("abc", adatas, strict=True):
        stored = adata.copy()
        stored.X = LAYOUTS[layout](adata.X)
        paths.append(tmp_path / f"lab_{name}{suffix}")
        stored.write_h5ad(paths[-1]) if suffix == ".h5ad" else stored.write_zarr(paths[-1])
    whole = in_memory(adatas)
    batches = open_batches(paths, counts=True)
    assert all(list(batch.var_names) == list(whole.var_names) for batch in batches)
    np.testing.assert_allclose(np.vstack([dense(b.X) for b in batches]), whole.X.toarray(), rtol=2e-6)
    counts = np.vstack([dense(b.layers["counts"]) for b in batches])
    np.testing.assert_array_equal(counts, whole.layers["counts"].toarray())
    for batch, adata in zip(batches, adatas, strict=True):
        own = adata[:, whole.var_names]
        np.testing.assert_array_equal(batch.varm["loadings"], own.varm["loadings"])
        np.testing.assert_array_equal(batch.var["mean"], own.var["mean"])
        np.testing.assert_array_equal(dense(batch.obsm["X_spatial"]), adata.obsm["X_spatial"])
    assert batches[0].X.dtype == np.float32
    assert [batch.uns["log1p"] for batch in batches] == [{"base": None}] * 3


def test_a_layer_has_the_counts_whatever_it_is_called(tmp_path, labs):
    adatas, paths = labs
    for adata, path in zip(adatas, paths, strict=True):
        odd = adata.copy()
        odd.layers["lognorm"], odd.X = adata.X.astype(int), sparse.csr_matrix(adata.shape, dtype="float32")
        odd.write_h5ad(path)
    batches = open_batches(paths, layer="lognorm", counts=True, target_sum=100)
    expected = adatas[1].copy()
    sc.pp.normalize_total(expected, target_sum=100)
    sc.pp.log1p(expected)
    np.testing.assert_allclose(dense(batches[1].X), expected[:, batches[1].var_names].X.toarray(), rtol=2e-6)
    assert batches[1].X.dtype == np.float32
    assert dense(batches[1].layers["lognorm"]).dtype.kind == "i"
    assert "counts" not in batches[1].layers


def test_cells_without_counts_stay_zero(tmp_path, labs):
    adatas, paths = labs
    empty = adatas[0].copy()
    empty.X.data[empty.X.indptr[5] : empty.X.indptr[6]] = 0
    empty.write_h5ad(paths[0])
    X = dense(open_batches(paths, counts=True)[0].X)
    assert not X[5].any()
    assert np.isfinite(X).all()


def test_without_counts_values_are_those_of_the_files(labs):
    adatas, paths = labs
    batches = open_batches(paths)
    for batch, adata in zip(batches, adatas, strict=True):
        np.testing.assert_array_equal(dense(batch.X), adata[:, batch.var_names].X.toarray())
    assert "counts" not in batches[0].layers


def test_names_of_genes_may_be_in_a_column(labs):
    batches = open_batches(labs[1], gene_key="symbol")
    assert batches[0].var_names.str.startswith("GENE").all()
    assert list(batches[0].var_names) == list(batches[2].var_names)


def test_a_warning_says_how_many_genes_each_file_loses(labs):
    with pytest.warns(UserWarning, match=r"loses \d+ of 300; .* loses \d+ of 280") as said:
        shared = open_batches(labs[1])[0].n_vars
    assert f"{shared:,} genes are in all files" in str(said[0].message)


# ---------------------------------------------------------------- variable genes


@pytest.mark.parametrize("n_top", [1, 60, 1000])
def test_variable_genes_are_those_of_scanpy(labs, n_top):
    adatas, paths = labs
    expected = in_memory(adatas, n_top).var
    found = open_batches(paths, counts=True, n_top_genes=n_top)[2].var
    assert list(found.index[found["highly_variable"]]) == list(expected.index[expected["highly_variable"]])
    for column in ("means", "dispersions", "dispersions_norm", "highly_variable_nbatches"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-4, atol=1e-5, err_msg=column)
    np.testing.assert_array_equal(
        found["highly_variable_intersection"], expected["highly_variable_intersection"]
    )


@pytest.mark.parametrize("base", [None, 2])
def test_variable_genes_of_normalised_values(tmp_path, labs, base):
    paths, whole = [], []
    for name, adata in zip("abc", labs[0], strict=True):
        one = adata.copy()
        sc.pp.normalize_total(one, target_sum=1e4)
        sc.pp.log1p(one, base=base)
        paths.append(tmp_path / f"{name}.zarr")
        one.write_zarr(paths[-1])
        whole.append(one)
    batches = open_batches(paths, n_top_genes=50)
    joined = ad.concat([one[:, batches[0].var_names] for one in whole], label="batch", index_unique="-")
    joined.uns["log1p"] = {"base": base}
    sc.pp.highly_variable_genes(joined, flavor="seurat", batch_key="batch", n_top_genes=50)
    np.testing.assert_array_equal(batches[0].var["highly_variable"], joined.var["highly_variable"])


def test_equally_variable_genes_are_taken_in_alphabetical_order(tmp_path):
    rng, paths = np.random.default_rng(0), []
    names, order = [f"g{i:02}" for i in rng.permutation(15)], rng.permutation(15)
    for name in "ab":
        X = np.tile(rng.poisson(2.0, (60, 5)).astype("float32"), 3)[:, order]  # each gene three times
        obs = pd.DataFrame(index=[f"{i}" for i in range(60)])
        paths.append(tmp_path / f"{name}.h5ad")
        ad.AnnData(X, obs=obs, var=pd.DataFrame(index=names)).write_h5ad(paths[-1])
    found = open_batches(paths, counts=True, n_top_genes=4)[0].var
    whole = ad.concat([ad.read_h5ad(path) for path in paths], label="batch", index_unique="-")
    sc.pp.normalize_total(whole, target_sum=1e4)
    sc.pp.log1p(whole)
    sc.pp.highly_variable_genes(whole, flavor="seurat", batch_key="batch", n_top_genes=4)
    assert found["highly_variable"].sum() == 4
    np.testing.assert_array_equal(found["highly_variable"], whole.var["highly_variable"])


def test_a_gene_that_a_batch_does_not_express_has_zeros_there(tmp_path, labs):
    adatas, paths = labs
    silent = adatas[0].copy()
    silent.X = sparse.csr_matrix(silent.X.multiply(silent.var_names != "gene7"))
    silent.write_h5ad(paths[0])
    adatas = [silent, *adatas[1:]]
    expected = in_memory(adatas, 60).var
    found = open_batches(paths, counts=True, n_top_genes=60)[0].var
    np.testing.assert_array_equal(found["highly_variable"], expected["highly_variable"])
    np.testing.assert_allclose(found["means"], expected["means"], rtol=1e-4)


# ---------------------------------------------------------------- what is read, and when


def test_opening_computes_nothing(labs, reads):
    with no_compute():
        open_batches(labs[1])
    assert not reads


def test_counts_look_at_the_first_cells_only(labs, reads, monkeypatch):
    monkeypatch.setattr("mnndask.io.prepare.FEW_CELLS", 10)
    monkeypatch.setattr("mnndask.stores.lazy_matrix.rows_per_chunk", lambda *_: 30)
    open_batches(labs[1], counts=True)
    assert set(reads.values()) == {30}


def test_ranking_genes_reads_each_cell_once(labs, reads):
    batches = open_batches(labs[1], counts=True, n_top_genes=50)
    assert list(reads.values()) == [90, 90, 90]
    reads.clear()
    batches[0].X.compute()
    assert list(reads.values()) == [90]


@pytest.mark.parametrize("sketch", [[], ["--sketch-size=40", "--n-components=10"]])
def test_preparing_costs_one_read_more(labs, tmp_path, reads, sketch):
    adatas, paths = labs
    whole = in_memory(adatas)
    plain = [tmp_path / f"plain{i}.h5ad" for i in range(3)]
    for i, path in enumerate(plain):
        whole[whole.obs["batch"] == f"lab_{'abc'[i]}"].copy().write_h5ad(path)
    (tmp_path / "genes").write_text("\n".join(whole.var_names[:50]))
    run(
        "correct",
        *plain,
        f"--var-subset={tmp_path / 'genes'}",
        "-q",
        f"-o{tmp_path / 'o'}.zarr",
        *sketch,
    )
    before = sum(n for (_, name), n in reads.items() if name == "X")
    reads.clear()
    words = ["--counts", "--n-top-genes=50", "-q", f"-o{tmp_path / 'p'}.zarr", *sketch]
    run("correct", *paths, *words)
    copied = 270  # counts, which the other files have as a layer of their own
    assert sum(n for (_, name), n in reads.items() if name == "X") <= before + 270 + copied


def test_tasks_have_names(labs):
    X = open_batches(labs[1], counts=True)[0].X
    assert key_split(X.name) == "mnn-counts"
    assert key_split(open_batches(labs[1])[0].X.name) == "mnn-read"


# ---------------------------------------------------------------- batches


def test_a_batch_is_a_file_unless_a_column_says_more(tmp_path, labs):
    adatas, paths = labs
    assert [batch.obs["batch"].unique().tolist() for batch in open_batches(paths)] == [
        ["lab_a"],
        ["lab_b"],
        ["lab_c"],
    ]
    for adata, path, donors in zip(adatas, paths, (["x", "y"], ["y"], ["z"]), strict=True):
        adata.obs["donor"] = (donors * 90)[:90]
        adata.write_h5ad(path)
    batches = open_batches(paths, batch_key="donor", counts=True)
    assert [b.obs["donor"].unique().tolist() for b in batches] == [
        ["lab_a_x"],
        ["lab_a_y"],
        ["lab_b"],
        ["lab_c"],
    ]
    np.testing.assert_array_equal(batches[1].obs["depth"], np.arange(1, 90, 2))
    whole = dense(open_batches(paths, counts=True)[0].X)
    np.testing.assert_array_equal(dense(batches[1].X), whole[1::2])


def test_batches_that_differ_between_files_keep_their_names(labs):
    adatas, paths = labs
    for i, (adata, path) in enumerate(zip(adatas, paths, strict=True)):
        adata.obs["donor"] = [f"{i}-late"] * 30 + [f"{i}-early"] * 60
        adata.write_h5ad(path)
    batches = open_batches(paths, batch_key="donor")
    assert [batch.obs["donor"].iloc[0] for batch in batches[:3]] == ["0-late", "0-early", "1-late"]
    np.testing.assert_array_equal(dense(batches[1].X), adatas[0][30:, batches[1].var_names].X.toarray())
    assert [batch.n_obs for batch in batches] == [30, 60] * 3


# ---------------------------------------------------------------- the whole road


@pytest.mark.parametrize("options", [{}, {"n_components": 8}, {"sketch_size": 40}])
def test_corrected_as_if_prepared_in_memory(labs, options):
    adatas, paths = labs
    whole = in_memory(adatas, 60)
    variable = list(whole.var_names[whole.var["highly_variable"]])
    expected = mnndask.mnn_correct(whole, batch_key="batch", var_subset=variable, k=8, **options)[0]
    batches = open_batches(paths, counts=True, n_top_genes=60)
    result = mnndask.mnn_correct(*batches, var_subset=variable, k=8, **options)[0]
    np.testing.assert_allclose(dense(result.X), expected.X, atol=1e-4)
    assert list(result.obs["batch"]) == list(whole.obs["batch"])
    np.testing.assert_array_equal(dense(result.layers["counts"]), whole.layers["counts"].toarray())


def test_a_folder_becomes_a_result_in_one_command(labs, tmp_path, capsys):
    adatas, paths = labs
    out = tmp_path / "atlas.zarr"
    words = ["correct", *map(str, paths), "--join=inner", "--counts", "--n-top-genes=60", "-k8", f"-o{out}"]
    run(*words)
    said = capsys.readouterr().err
    assert "finding variable genes: 270 cells" in said
    written = ad.read_zarr(out)
    whole = in_memory(adatas, 60)
    variable = list(whole.var_names[whole.var["highly_variable"]])
    assert list(written.var_names[written.var["highly_variable"]]) == variable
    expected = mnndask.mnn_correct(whole, batch_key="batch", var_subset=variable, k=8)[0]
    np.testing.assert_allclose(written.X, expected.X, atol=1e-4)
    np.testing.assert_array_equal(written.layers["counts"].toarray(), whole.layers["counts"].toarray())
    run(*words, "--resume")
    assert "is complete: nothing to do" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*words[:-1], "--target-sum=100", f"-o{out}", "--resume"])
    assert ended.value.code == 2


def test_nested_batches_of_several_files(labs, tmp_path):
    adatas, paths = labs
    for i, (adata, path) in enumerate(zip(adatas, paths, strict=True)):
        adata.obs["study"], adata.obs["donor"] = f"s{i}", ["d0", "d1"] * 45
        adata.write_h5ad(path)
    out = tmp_path / "out.zarr"
    run("correct", *paths, "--batch-key=study,donor", "--counts", "-k5", "-q", f"-o{out}")
    assert ad.read_zarr(out).obs["study_donor"].nunique() == 6


def test_cells_of_one_file_keep_their_order_and_names(labs, tmp_path):
    adatas, paths = labs
    adatas[0].obs["donor"] = ["y", "x", "z"] * 30
    adatas[0].write_h5ad(paths[0])
    out = tmp_path / "out.zarr"
    run("correct", paths[0], "--batch-key=donor", "--counts", "--n-top-genes=60", "-k5", "-q", f"-o{out}")
    written = ad.read_zarr(out)
    assert list(written.obs_names) == list(adatas[0].obs_names)
    assert list(written.obs["donor"]) == list(adatas[0].obs["donor"])
    whole = adatas[0].copy()
    sc.pp.normalize_total(whole, target_sum=1e4)
    sc.pp.log1p(whole)
    sc.pp.highly_variable_genes(whole, flavor="seurat", batch_key="donor", n_top_genes=60)
    np.testing.assert_array_equal(written.var["highly_variable"], whole.var["highly_variable"])


# ---------------------------------------------------------------- bad input


def with_genes(path, names):
    adata = lab(0)
    adata.var_names = names
    adata.write_h5ad(path)
    return path


IDS = [f"ENSG{i:011}" for i in range(N_GENES)]
SYMBOLS = [f"Abc{i}" for i in range(N_GENES)]


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (IDS, [f"{name}.{i % 9 + 1}" for i, name in enumerate(IDS)], "have versions"),
        (IDS, SYMBOLS, "One has Ensembl ids, the other symbols"),
        (SYMBOLS, [name.upper() for name in SYMBOLS], "differ in upper and lower case"),
        (SYMBOLS, [f"x{i}" for i in range(N_GENES)], "of one species"),
        (SYMBOLS, [*SYMBOLS[:50], *(f"x{i}" for i in range(250))], "share 50 gene"),
    ],
)
def test_files_that_share_few_genes_are_refused_with_examples(tmp_path, a, b, said):
    paths = [with_genes(tmp_path / "a.h5ad", a), with_genes(tmp_path / "b.h5ad", b)]
    with pytest.raises(GenesError, match=said) as error:
        open_batches(paths)
    assert a[-1] in str(error.value) or a[0] in str(error.value) or a[50] in str(error.value)
    assert b[-1] in str(error.value) or b[0] in str(error.value) or b[50] in str(error.value)


def test_names_that_occur_twice_are_named(tmp_path):
    path = with_genes(tmp_path / "a.h5ad", ["MATR3", "MATR3", *SYMBOLS[2:]])
    with pytest.raises(GenesError, match=r"MATR3\.\nMake them unique: adata.var_names_make_unique"):
        open_batches([path])


def log_values(adata):
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)


def negative(adata):
    adata.X = sparse.csr_matrix(adata.X.toarray() - 1)


@pytest.mark.parametrize(
    ("change", "said"), [(log_values, "looks log-transformed"), (negative, "negative values")]
)
@pytest.mark.parametrize("n_top", [None, 20])
def test_values_that_are_no_counts_are_refused(labs, change, said, n_top):
    adatas, paths = labs
    change(adatas[1])
    adatas[1].write_h5ad(paths[1])
    with pytest.raises(InputError, match=f"X of batch 1 .*{said}"):
        open_batches(paths, counts=True, n_top_genes=n_top)


def test_negative_values_further_down_are_found_when_they_are_read(labs, monkeypatch):
    monkeypatch.setattr("mnndask.io.prepare.FEW_CELLS", 10)
    adatas, paths = labs
    adatas[1].X[80, 3] = -1
    adatas[1].write_h5ad(paths[1])
    with pytest.raises(InputError, match=r"negative values, e\.g\. in row 80"):
        open_batches(paths, counts=True)[1].X.compute()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_named(labs, value):
    adatas, paths = labs
    adatas[2].X[7, 3] = value
    adatas[2].write_h5ad(paths[2])
    with pytest.raises(NonFiniteError, match=r"X of batch 2 .*row 7"):
        open_batches(paths, counts=True, n_top_genes=20)


def test_a_file_without_genes_is_named(tmp_path):
    lab(0)[:, :0].copy().write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(GenesError, match="has no genes"):
        open_batches([tmp_path / "a.h5ad"])


def test_estimated_counts_are_used_with_a_warning(labs):
    adatas, paths = labs
    adatas[0].X = adatas[0].X * 1.3
    adatas[0].X.data[:5] = 60.5
    adatas[0].write_h5ad(paths[0])
    with pytest.warns(UserWarning, match="may not be counts"):
        open_batches(paths, counts=True)


def test_counts_that_are_not_called_so_are_noticed(labs):
    opened = open_batches(labs[1])
    with pytest.warns(UserWarning, match="look like raw counts|looks like raw counts"):
        mnndask.mnn_correct(*opened, k=5)


@pytest.mark.parametrize("change", [lambda X: X, lambda X: X * 0.5 + (X > 0) * 1000])
def test_genes_are_not_ranked_by_values_that_are_no_logarithms(labs, change):
    adatas, paths = labs
    adatas[1].X = sparse.csr_matrix(change(adatas[1].X))
    adatas[1].write_h5ad(paths[1])
    for i in (0, 2):
        sc.pp.normalize_total(adatas[i])
        sc.pp.log1p(adatas[i])
        adatas[i].write_h5ad(paths[i])
    with pytest.raises(InputError, match=r"Genes of X of batch 1 .* cannot be ranked") as caught:
        open_batches(paths, n_top_genes=20)
    assert "counts=True" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"join": "outer"}, InputError, "join='outer' is not offered"),
        ({"join": "left"}, InputError, "join is 'left'"),
        ({"counts": "counts"}, InputTypeError, "counts is 'counts'"),
        ({"target_sum": 0}, InputError, "target_sum is 0"),
        ({"target_sum": float("nan")}, InputError, "target_sum is nan"),
        ({"n_top_genes": 0}, InputError, "n_top_genes is 0"),
        ({"n_top_genes": 2.5}, InputError, "n_top_genes is 2.5"),
        ({"layer": 3}, InputTypeError, "layer is 3"),
        ({"layer": "raw"}, InputKeyError, "has no layer 'raw'"),
        ({"gene_key": "gene_ids"}, InputKeyError, "has no column 'gene_ids' in var"),
        ({"batch_key": "donor"}, InputError, "has no column 'donor' in obs"),
    ],
)
def test_bad_options_are_named_before_the_work(labs, reads, options, error, said):
    with pytest.raises(error, match=said):
        open_batches(labs[1], **options)
    assert not reads


@pytest.mark.parametrize(
    ("paths", "error"), [([], InputError), ([lab(0)], InputTypeError), ([""], InputError)]
)
def test_files_are_paths(paths, error):
    with pytest.raises(error):
        open_batches(paths)


def test_files_of_one_name_need_another_name_for_their_batches(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        lab(0).write_h5ad(tmp_path / folder / "x.h5ad")
    with pytest.raises(InputError, match="both called 'x'"):
        open_batches([tmp_path / "a" / "x.h5ad", tmp_path / "b" / "x.h5ad"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target-sum=100"], "--target-sum was given, but not --counts"),
        (["--n-top-genes=5", "--hvg-key=hv"], "Both --n-top-genes and --hvg-key"),
        (["--n-top-genes=-1"], "--n-top-genes is -1"),
        (["--join=outer"], "--join outer is not offered"),
        (["--counts", "--gene-key=ids"], "has no column 'ids' in var"),
        (["--counts", "--batch-categories=a,b"], "2 name(s) for 3 batches"),
    ],
)
def test_the_command_says_what_is_wrong_in_its_own_words(labs, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        main(["correct", *map(str, labs[1]), *words, f"-o{tmp_path / 'out.zarr'}"])
    assert ended.value.code == 2
    assert said in told(capsys.readouterr().err)[-1]
    assert not (tmp_path / "out.zarr").exists()
