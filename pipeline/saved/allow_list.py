"""The names that a saved pipeline may use, and how."""

import importlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator

from pipeline.exceptions import ArtifactError

# A hostile file may use these names with any state and arguments, and have them called later, for
# example by a FunctionTransformer. So each name was reviewed: it computes numbers or holds values.
# It does no I/O, imports, evaluates or starts nothing, looks up no attribute by name, and calls
# nothing except its arguments, which are on this list too. Hence nothing that hands out work
# (cross_validate) or looks up by name (get_scorer), nothing of sklearn.utils and sklearn.datasets.
# A test shows what a new release of scikit-learn, numpy or scipy adds.


def _names(text: str) -> frozenset[str]:
    """Parse ``"module: name name"`` on several lines."""
    names, module = set(), ""
    for word in text.split():
        if word.endswith(":"):
            module = word[:-1]
        else:
            names.add(f"{module}.{word}")
    return frozenset(names)


WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
NDARRAY = "numpy.ndarray"

# Functions with which pickles make arrays and compiled objects: callable, but never kept as values.
# numpy.ndarray is only an argument: called, it would make pointers of any bytes.
FUNCTIONS = _names("""
numpy: ndarray
numpy._core.multiarray: _reconstruct scalar
numpy._core.numeric: _frombuffer
numpy.ma.core: _mareconstruct
numpy.random._pickle: __randomstate_ctor __generator_ctor __bit_generator_ctor
numpy.random.bit_generator: __pyx_unpickle_SeedSequence
sklearn.metrics._dist_metrics: newObj
sklearn.neighbors._ball_tree: newObj
sklearn.neighbors._kd_tree: newObj
""")
# Types that pickles call with arguments.
CALLED = _names("""
builtins: bytearray complex frozenset range set slice
collections: OrderedDict defaultdict
numpy: dtype
numpy.ma.core: MaskedConstant
operator: itemgetter
sklearn.tree._tree: Tree
sklearn._loss._loss: CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss
  CyHalfMultinomialLoss CyHalfPoissonLoss CyHalfSquaredError CyHalfTweedieLoss
  CyHalfTweedieLossIdentity CyHuberLoss CyPinballLoss
sklearn.linear_model._sgd_fast: EpsilonInsensitive Hinge ModifiedHuber SquaredEpsilonInsensitive
  SquaredHinge
""")
FROZEN = _names("scipy.stats._distn_infrastructure: rv_continuous_frozen rv_discrete_frozen")
# Classes whose objects are made empty and then given their state, like estimators.
MADE = FROZEN | _names("""
joblib.numpy_pickle: NumpyArrayWrapper
pipeline.evaluation.word2vec: Word2VecVectorizer
pipeline.finetuning: FineTunedBertClassifier
pipeline.logistic: TiedLogisticRegression TunedLogisticRegression
pipeline.stacking: TextStackingClassifier
pipeline.vectorizer: BertVectorizer
scipy.interpolate._bsplines: BSpline
sklearn.calibration: _CalibratedClassifier
sklearn.cluster._birch: _CFNode _CFSubcluster
sklearn.cluster._bisect_k_means: _BisectingTree
sklearn.impute._iterative: _ImputerTriplet
sklearn.compose._column_transformer: make_column_selector
sklearn.ensemble._hist_gradient_boosting.predictor: TreePredictor
sklearn.metrics._scorer: _CurveScorer _MultimetricScorer _PassthroughScorer _Scorer
sklearn.neural_network._stochastic_optimizers: AdamOptimizer SGDOptimizer
sklearn.utils._bunch: Bunch
sklearn.utils._metadata_requests: MetadataRequest MethodMetadataRequest
scipy.sparse._bsr: bsr_array bsr_matrix
scipy.sparse._coo: coo_array coo_matrix
scipy.sparse._csc: csc_array csc_matrix
scipy.sparse._csr: csr_array csr_matrix
scipy.sparse._dia: dia_array dia_matrix
scipy.sparse._dok: dok_array dok_matrix
scipy.sparse._lil: lil_array lil_matrix
sklearn._loss.link: HalfLogitLink IdentityLink Interval LogLink LogitLink MultinomialLogit
sklearn._loss.loss: AbsoluteError ExponentialLoss HalfBinomialLoss HalfBinomialLossArrayAPI
  HalfGammaLoss HalfMultinomialLoss HalfMultinomialLossArrayAPI HalfPoissonLoss
  HalfPoissonLossArrayAPI HalfSquaredError HalfTweedieLoss HalfTweedieLossIdentity HuberLoss
  PinballLoss
sklearn.gaussian_process.kernels: CompoundKernel ConstantKernel DotProduct ExpSineSquared
  Exponentiation Matern PairwiseKernel Product RBF RationalQuadratic Sum WhiteKernel
sklearn.model_selection._split: GroupKFold GroupShuffleSplit KFold LeaveOneGroupOut LeaveOneOut
  LeavePGroupsOut LeavePOut PredefinedSplit RepeatedKFold RepeatedStratifiedKFold ShuffleSplit
  StratifiedGroupKFold StratifiedKFold StratifiedShuffleSplit TimeSeriesSplit _CVIterableWrapper
""")
# Functions and types that are only values, never called by a file.
NAMED = _names("""
builtins: bool bytes dict float int list object str tuple
numpy.linalg: norm
numpy.ma: MaskedArray
numpy.random._mt19937: MT19937
numpy.random._pcg64: PCG64 PCG64DXSM
numpy.random._philox: Philox
numpy.random._sfc64: SFC64
numpy.random.bit_generator: SeedSequence
scipy._lib.array_api_compat.numpy._aliases: asarray
scipy.spatial.distance: braycurtis canberra chebyshev cityblock correlation cosine dice euclidean
  hamming jaccard jensenshannon mahalanobis minkowski rogerstanimoto russellrao seuclidean
  sokalsneath sqeuclidean yule
scipy.special._logsumexp: log_softmax logsumexp softmax
sklearn.feature_extraction.text: strip_accents_ascii strip_accents_unicode strip_tags
sklearn.metrics._scorer: negative_likelihood_ratio positive_likelihood_ratio
sklearn.cluster._kmeans: _kmeans_single_elkan _kmeans_single_lloyd
sklearn.neighbors._ball_tree: BallTree BallTree32 BallTree64
sklearn.neighbors._kd_tree: KDTree KDTree32 KDTree64
numpy: argmax argmin argsort around array asarray atleast_1d atleast_2d clip concatenate cumsum
  diff hstack imag max mean median min nan_to_num nanmax nanmean nanmin nansum prod ravel real
  reshape round sort squeeze std sum transpose var vstack
numpy: bool bytes_ character clongdouble complex128 complex64 complexfloating datetime64
  flexible float16 float32 float64 floating generic inexact int16 int32 int64 int8 integer
  longdouble longlong number object_ signedinteger str_ timedelta64 uint16 uint32 uint64 uint8
  ulonglong unsignedinteger
sklearn.feature_selection._mutual_info: mutual_info_classif mutual_info_regression
sklearn.feature_selection._univariate_selection: chi2 f_classif f_oneway f_regression
  r_regression
sklearn.metrics._classification: accuracy_score balanced_accuracy_score brier_score_loss
  class_likelihood_ratios classification_report cohen_kappa_score confusion_matrix
  d2_brier_score d2_log_loss_score f1_score fbeta_score hamming_loss hinge_loss jaccard_score
  log_loss matthews_corrcoef multilabel_confusion_matrix precision_recall_fscore_support
  precision_score recall_score zero_one_loss
sklearn.metrics._dist_metrics: BrayCurtisDistance32 BrayCurtisDistance64 CanberraDistance32
  CanberraDistance64 ChebyshevDistance32 ChebyshevDistance64 DiceDistance32 DiceDistance64
  EuclideanDistance32 EuclideanDistance64 HammingDistance32 HammingDistance64
  HaversineDistance32 HaversineDistance64 JaccardDistance32 JaccardDistance64
  KulsinskiDistance32 KulsinskiDistance64 MahalanobisDistance32 MahalanobisDistance64
  ManhattanDistance32 ManhattanDistance64 MatchingDistance32 MatchingDistance64
  MinkowskiDistance32 MinkowskiDistance64 PyFuncDistance32 PyFuncDistance64
  RogersTanimotoDistance32 RogersTanimotoDistance64 RussellRaoDistance32 RussellRaoDistance64
  SEuclideanDistance32 SEuclideanDistance64 SokalMichenerDistance32 SokalMichenerDistance64
  SokalSneathDistance32 SokalSneathDistance64
sklearn.metrics._ranking: auc average_precision_score confusion_matrix_at_thresholds
  coverage_error dcg_score det_curve label_ranking_average_precision_score label_ranking_loss
  metric_at_thresholds ndcg_score precision_recall_curve roc_auc_score roc_curve
  top_k_accuracy_score
sklearn.metrics._regression: d2_absolute_error_score d2_pinball_score d2_tweedie_score
  explained_variance_score max_error mean_absolute_error mean_absolute_percentage_error
  mean_gamma_deviance mean_pinball_loss mean_poisson_deviance mean_squared_error
  mean_squared_log_error mean_tweedie_deviance median_absolute_error r2_score
  root_mean_squared_error root_mean_squared_log_error
sklearn.metrics.cluster._bicluster: consensus_score
sklearn.metrics.cluster._supervised: adjusted_mutual_info_score adjusted_rand_score
  completeness_score fowlkes_mallows_score homogeneity_completeness_v_measure homogeneity_score
  mutual_info_score normalized_mutual_info_score pair_confusion_matrix rand_score
  v_measure_score
sklearn.metrics.cluster._unsupervised: calinski_harabasz_score davies_bouldin_score
  silhouette_samples silhouette_score
sklearn.metrics.pairwise: additive_chi2_kernel chi2_kernel cosine_distances cosine_similarity
  euclidean_distances haversine_distances laplacian_kernel linear_kernel manhattan_distances
  nan_euclidean_distances paired_cosine_distances paired_euclidean_distances
  paired_manhattan_distances polynomial_kernel rbf_kernel sigmoid_kernel
sklearn.preprocessing._data: add_dummy_feature binarize maxabs_scale minmax_scale normalize
  power_transform quantile_transform robust_scale scale
sklearn.preprocessing._label: label_binarize
numpy: absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and
  bitwise_count bitwise_or bitwise_xor cbrt ceil conjugate copysign cos cosh deg2rad degrees
  divide divmod equal exp exp2 expm1 fabs float_power floor floor_divide fmax fmin fmod frexp
  gcd greater greater_equal heaviside hypot invert isfinite isinf isnan isnat lcm ldexp
  left_shift less less_equal log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not
  logical_or logical_xor matmul matvec maximum minimum modf multiply negative nextafter
  not_equal positive power rad2deg radians reciprocal remainder right_shift rint sign signbit
  sin sinh spacing sqrt square subtract tan tanh trunc vecdot vecmat
scipy.special._special_ufuncs: airy airye bei beip ber berp besselpoly beta betaln binom cbrt
  cosdg cosm1 cotdg dawsn ellipe ellipeinc ellipj ellipk ellipkinc ellipkm1 erf erfc erfcx erfi
  exp1 exp10 exp2 expi expit expm1 exprel fresnel gamma gammainc gammaincc gammainccinv
  gammaincinv gammaln gammasgn hankel1 hankel1e hankel2 hankel2e hyp2f1 i0 i0e i1 i1e it2i0k0
  it2j0y0 it2struve0 itairy iti0k0 itj0y0 itmodstruve0 itstruve0 iv ive j0 j1 jv jve k0 k0e k1
  k1e kei keip kelvin ker kerp kv kve log1p log_expit log_ndtr log_wright_bessel loggamma logit
  mathieu_a mathieu_b mathieu_cem mathieu_modcem1 mathieu_modcem2 mathieu_modsem1
  mathieu_modsem2 mathieu_sem modfresnelm modfresnelp modstruve ndtr obl_ang1 obl_ang1_cv obl_cv
  obl_rad1 obl_rad1_cv obl_rad2 obl_rad2_cv pbdv pbvv pbwa pro_ang1 pro_ang1_cv pro_cv pro_rad1
  pro_rad1_cv pro_rad2 pro_rad2_cv psi radian rgamma sindg struve tandg voigt_profile wofz
  wright_bessel xlog1py xlogy y0 y1 yv yve zetac
scipy.special._ufuncs: agm bdtr bdtrc bdtri bdtrik bdtrin betainc betaincc betainccinv
  betaincinv boxcox boxcox1p btdtria btdtrib chdtr chdtrc chdtri chdtriv chndtr chndtridf
  chndtrinc chndtrix elliprc elliprd elliprf elliprg elliprj entr erfcinv erfinv eval_chebyc
  eval_chebys eval_chebyt eval_chebyu eval_gegenbauer eval_genlaguerre eval_hermite
  eval_hermitenorm eval_jacobi eval_laguerre eval_legendre eval_sh_chebyt eval_sh_chebyu
  eval_sh_jacobi eval_sh_legendre expn fdtr fdtrc fdtri fdtridfd gdtr gdtrc gdtria gdtrib gdtrix
  huber hyp0f1 hyp1f1 hyperu inv_boxcox inv_boxcox1p kl_div kn kolmogi kolmogorov lpmv nbdtr
  nbdtrc nbdtri nbdtrik nbdtrin ncfdtr ncfdtri ncfdtridfd ncfdtridfn ncfdtrinc nctdtr nctdtridf
  nctdtrinc nctdtrit ndtri ndtri_exp nrdtrimn nrdtrisd owens_t pdtr pdtrc pdtri pdtrik poch
  powm1 pseudo_huber rel_entr round shichi sici smirnov smirnovi spence stdtr stdtridf stdtrit
  tklmbda wrightomega yn
""")
# scipy executes a text in a distribution's state, so the state in the file is ignored and replaced
# by that of scipy's own object. Without levy_stable and vonmises, which have several.
DISTRIBUTIONS = _names("""
scipy.stats._continuous_distns: alpha_gen anglit_gen arcsine_gen argus_gen beta_gen
  betaprime_gen bradford_gen burr12_gen burr_gen cauchy_gen chi2_gen chi_gen cosine_gen
  crystalball_gen dgamma_gen dpareto_lognorm_gen dweibull_gen erlang_gen expon_gen exponnorm_gen
  exponpow_gen exponweib_gen f_gen fatiguelife_gen fisk_gen foldcauchy_gen foldnorm_gen
  gamma_gen gausshyper_gen genexpon_gen genextreme_gen gengamma_gen genhalflogistic_gen
  genhyperbolic_gen geninvgauss_gen genlogistic_gen gennorm_gen genpareto_gen gibrat_gen
  gompertz_gen gumbel_l_gen gumbel_r_gen halfcauchy_gen halfgennorm_gen halflogistic_gen
  halfnorm_gen hypsecant_gen invgamma_gen invgauss_gen invweibull_gen irwinhall_gen
  jf_skew_t_gen johnsonsb_gen johnsonsu_gen kappa3_gen kappa4_gen ksone_gen kstwo_gen
  kstwobign_gen landau_gen laplace_asymmetric_gen laplace_gen levy_gen levy_l_gen loggamma_gen
  logistic_gen loglaplace_gen lognorm_gen lomax_gen maxwell_gen mielke_gen moyal_gen
  nakagami_gen ncf_gen nct_gen ncx2_gen norm_gen norminvgauss_gen pareto_gen pearson3_gen
  powerlaw_gen powerlognorm_gen powernorm_gen rayleigh_gen rdist_gen recipinvgauss_gen
  reciprocal_gen rel_breitwigner_gen rice_gen semicircular_gen skewcauchy_gen skewnorm_gen
  studentized_range_gen t_gen trapezoid_gen triang_gen truncexpon_gen truncnorm_gen
  truncpareto_gen truncweibull_min_gen tukeylambda_gen uniform_gen wald_gen
  weibull_max_gen weibull_min_gen wrapcauchy_gen
scipy.stats._discrete_distns: bernoulli_gen betabinom_gen betanbinom_gen binom_gen boltzmann_gen
  dlaplace_gen geom_gen hypergeom_gen logser_gen nbinom_gen nchypergeom_fisher_gen
  nchypergeom_wallenius_gen nhypergeom_gen planck_gen poisson_binom_gen poisson_gen randint_gen
  skellam_gen yulesimon_gen zipf_gen zipfian_gen
""")
# What `trusted="lightgbm"` allows: estimators of a module, and what they leave in files.
GROUPS = {
    "catboost": (
        "",
        _names("catboost.core: CatBoostClassifier CatBoostRegressor"),
    ),
    "imblearn": ("imblearn", frozenset[str]()),
    "lightgbm": ("lightgbm.sklearn", _names("lightgbm.basic: Booster")),
    "xgboost": ("xgboost.sklearn", _names("xgboost.core: Booster")),
}
_LISTED = FUNCTIONS | CALLED | MADE | NAMED | DISTRIBUTIONS
_NO_ESTIMATORS = {"tests", "conftest", "externals", "utils", "keras", "tensorflow"}


def trusted_names(trusted: str | Iterable[str]) -> frozenset[str]:
    """Check full names and `GROUPS` that a user trusts."""
    names = frozenset([trusted] if isinstance(trusted, str) else trusted)
    for name in names:
        if name not in GROUPS and "." not in name:
            raise ValueError(
                f"trusted={name!r} is neither a full name, such as 'my_package.MyTransformer', nor "
                f"a group; groups are {', '.join(map(repr, GROUPS))}."
            )
    return names


def is_allowed(name: str, trusted: Collection[str] = ()) -> bool:
    """Whether a file may use a name."""
    groups = [GROUPS[group] for group in GROUPS if group in trusted]
    return name in trusted or any(
        name in names or _is_estimator(name, module)
        for module, names in [("sklearn", _LISTED), *groups]
    )


def not_allowed(names: Iterable[str], trusted: Collection[str] = ()) -> list[str]:
    """Return the names that are not allowed, in order."""
    return [name for name in names if not is_allowed(name, trusted)]


def how_to_trust(refused: list[str]) -> str:
    """Return the argument `trusted` that opens a file."""
    groups = [group for group in groups_of(refused) if not_allowed(refused, [group]) != refused]
    trusted = groups + not_allowed(refused, groups)
    return f"trusted={trusted[0]!r}" if trusted == groups[:1] else f"trusted={trusted}"


def name_of(kind: type) -> str:
    """Return the name of a class in saved files."""
    return f"{kind.__module__}.{kind.__qualname__}"


def refuse_names(path: Path, refused: list[str]) -> None:
    """Raise for names that are not allowed, listing all."""
    if refused:
        raise refused_file(
            path,
            f"it names {', '.join(refused)}: not on the list of what a saved pipeline may name",
            groups_of(refused),
        )


def refused_file(path: Path, reason: str, groups: Iterable[str] = ()) -> ArtifactError:
    """Return the error for a file that is not opened."""
    further = "".join(f", such as trusted={group!r}" for group in groups)
    return ArtifactError(
        f"{path} is refused: {reason}. Nothing of it was run. inspect_pipeline shows what is "
        "inside; if you trust the author, load_pipeline(path, trusted=[...]) allows more names"
        f"{further}."
    )


def groups_of(names: Iterable[str]) -> list[str]:
    """Return the groups that cover some names, without importing."""
    packages = {name.partition(".")[0] for name in names}
    return [group for group in GROUPS if group in packages]


def _is_estimator(name: str, of: str) -> bool:
    module, _, qualified = name.rpartition(".")
    parts = name.split(".")
    within = of and f"{module}.".startswith(f"{of}.") and all(map(str.isidentifier, parts))
    if not within or _NO_ESTIMATORS & set(parts):
        return False
    try:
        value = getattr(importlib.import_module(module), qualified, None)
    except ImportError:
        # from a package that is not installed; opening the file will say so
        return of != "sklearn" and qualified[:1].isupper()
    return (
        isinstance(value, type) and issubclass(value, BaseEstimator) and value.__module__ == module
    )


def restore_distribution(distribution: Any) -> None:
    """Give an empty distribution the state of scipy's own."""
    import scipy.stats

    own = next(own for own in vars(scipy.stats).values() if type(own) is type(distribution))
    distribution.__setstate__(own.__getstate__())
